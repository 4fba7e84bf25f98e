// Dark or light: the choice of the reader, else that of the system. Runs before the page is drawn, so that it never
// flashes; not a module for that reason.
(() => {
  const root = document.documentElement;
  const kept = () => {
    try {
      return localStorage.getItem("klagg-theme");
    } catch {
      return null; // storage may be forbidden; the choice then holds for this visit
    }
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const show = (theme) => {
    root.dataset.theme = theme;
    dispatchEvent(new CustomEvent("klagg-theme"));
  };
  show(kept() ?? (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => kept() ?? show(system.matches ? "dark" : "light"));
  window.klaggTheme = () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("klagg-theme", theme);
    } catch {
      // as above
    }
    show(theme);
  };
})();
