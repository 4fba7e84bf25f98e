// klagg's own API, with the token where the gateway asks for one.

const TIMEOUT_MS = 10_000;
const KEPT = "klagg-token";

/** An error of the API or the connection: `status` is 0 without an answer; `error` is for programs. */
export class Problem extends Error {
  constructor(status, error, message) {
    super(message);
    this.status = status;
    this.error = error;
  }
}

const storage = () => {
  try {
    return sessionStorage;
  } catch {
    return null; // sessionStorage is not allowed: the token is asked for each time
  }
};

let token = storage()?.getItem(KEPT) ?? "";
let asking = null;

/** Ask the reader for the token; `dialog` resolves with it. */
export const onToken = (ask) => { asking = ask; };

/** What a WebSocket's URL needs to be let in. */
export const tokenQuery = () => (token ? `token=${encodeURIComponent(token)}` : "");

/** The decoded answer of GET `/api/<name>`; a Problem if there is none. */
export async function get(name, query = {}, signal = undefined) {
  const values = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const url = `/api/${name}${values.length ? `?${new URLSearchParams(values)}` : ""}`;
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await fetch(url, {
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      signal: signal ? either(signal, limit) : limit,
    });
  } catch (failure) {
    if (signal?.aborted) throw failure;
    throw new Problem(0, "unreachable", limit.aborted ? "The gateway does not answer." : "The gateway cannot be reached.");
  }
  if (response.status === 401 && asking) {
    token = await asking();
    storage()?.setItem(KEPT, token);
    return get(name, query, signal);
  }
  let body;
  try {
    body = await response.json();
  } catch {
    throw new Problem(response.status, "unreadable", `The gateway answered ${response.status} without a reason.`);
  }
  if (!response.ok) throw new Problem(response.status, body.error ?? "", body.message ?? `The gateway answered ${response.status}.`);
  return body;
}

function either(first, second) {
  if (AbortSignal.any) return AbortSignal.any([first, second]);
  return first;
}
