// Validates Grafana's dashboards against the types of @grafana/schema, of which JSON schemas are made here.
// node validate.mjs FOLDER_OF_PACKAGES FOLDER_OF_GRAFANA prints one JSON object: `problems`, a sentence each; `checked`,
// how many of what; `yaml`, the provisioning files as JSON. FOLDER_OF_PACKAGES is where `npm ci` was run.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const [packages, folder] = process.argv.slice(2).map((each) => path.resolve(each));
const load = createRequire(path.join(packages, "package.json"));
const { Ajv } = load("ajv");
const { createGenerator } = load("ts-json-schema-generator");
const { parse } = load("yaml");

const TYPES = path.join(packages, "node_modules/@grafana/schema/dist/types/raw");
const ajv = new Ajv({ strict: false, allErrors: true });
const validators = new Map();

// A validator for an exported type of a file of @grafana/schema. Keys that the type does not have are refused.
function validator(file, type) {
  const key = `${file} ${type}`;
  if (!validators.has(key)) {
    const generator = createGenerator({
      path: path.join(TYPES, file), type, skipTypeCheck: true, additionalProperties: false, expose: "none",
    });
    validators.set(key, ajv.compile(generator.createSchema(type)));
  }
  return validators.get(key);
}

function panelFile(kind) {
  const file = `composable/${kind.replaceAll("-", "")}/panelcfg/x/types.gen.d.ts`;
  return fs.existsSync(path.join(TYPES, file)) ? file : null;
}

const problems = [];
const checked = { dashboards: 0, panels: 0, options: 0, fields: 0 };

function check(what, file, type, value) {
  const valid = validator(file, type);
  if (!valid(value)) {
    for (const { instancePath, message, params } of valid.errors) {
      problems.push(`${what}${instancePath}: ${message} ${JSON.stringify(params)}`);
    }
  }
}

function hasType(file, type) {
  return new RegExp(`export (interface|type) ${type}\\b`).test(fs.readFileSync(path.join(TYPES, file), "utf8"));
}

for (const name of fs.readdirSync(path.join(folder, "dashboards")).filter((each) => each.endsWith(".json")).sort()) {
  const dashboard = JSON.parse(fs.readFileSync(path.join(folder, "dashboards", name), "utf8"));
  check(name, "dashboard/x/types.gen.d.ts", "Dashboard", dashboard);
  checked.dashboards += 1;
  for (const panel of dashboard.panels.flatMap((each) => (each.type === "row" ? each.panels : [each]))) {
    checked.panels += 1;
    const file = panelFile(panel.type);
    if (file === null) {
      problems.push(`${name}: there is no panel of the type ${panel.type}`);
      continue;
    }
    check(`${name} "${panel.title}" options`, file, "Options", panel.options);
    checked.options += 1;
    if (panel.fieldConfig.defaults.custom && hasType(file, "FieldConfig")) {
      check(`${name} "${panel.title}" custom`, file, "FieldConfig", panel.fieldConfig.defaults.custom);
      checked.fields += 1;
    }
  }
}

const yaml = {};
for (const kind of ["datasources", "dashboards"]) {
  for (const name of fs.readdirSync(path.join(folder, kind)).filter((each) => each.endsWith(".yml")).sort()) {
    yaml[`${kind}/${name}`] = parse(fs.readFileSync(path.join(folder, kind, name), "utf8"), { strict: true });
  }
}
console.log(JSON.stringify({ problems, checked, yaml }));
