const root = document.documentElement;

// A browser may refuse storage for a file on a disk.
function remember(key, value) {
  try { localStorage.setItem(key, value); } catch { /* the choice holds until the page closes */ }
}
function remembered(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

function speak(language) {
  root.lang = language === "zh" ? "zh-CN" : "en";
  document.title = language === "zh" ? "npu-parity：报告" : "npu-parity: report";
  for (const button of document.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", button.dataset.language === language);
}
for (const button of document.querySelectorAll("[data-language]"))
  button.addEventListener("click", () => {
    speak(button.dataset.language);
    remember("language", button.dataset.language);
  });
speak(remembered("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));

function paint(theme) { root.classList.toggle("dark", theme === "dark"); }
const system = matchMedia("(prefers-color-scheme: dark)");
paint(remembered("theme") ?? (system.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", () => {
  const theme = root.classList.contains("dark") ? "light" : "dark";
  paint(theme);
  remember("theme", theme);
});

const sources = document.getElementById("sources");
sources.addEventListener("click", () =>
  sources.setAttribute("aria-pressed", root.classList.toggle("sources")));
const shown = document.getElementById("source");
for (const event of ["pointerover", "click"])
  document.addEventListener(event, ({ target }) => {
    const number = target.closest?.("data");
    shown.textContent = number?.dataset.source ?? "";
    if (number) number.title = number.dataset.source;
  });

const words = (en, zh) => `<span lang="en">${en}</span><span lang="zh">${zh}</span>`;
const LONG = 30; // rows
const tables = [...document.querySelectorAll("table.data")].map((table) => {
  const count = table.tBodies[0].rows.length;
  return new DataTable(table, {
    paging: count > LONG,
    pageLength: 20,
    order: [],
    autoWidth: false,
    layout: {
      topStart: count > 3 ? "search" : null,
      topEnd: null,
      bottomStart: count > LONG ? "info" : null,
      bottomEnd: count > LONG ? "paging" : null,
    },
    language: {
      search: words("Filter", "筛选"),
      zeroRecords: words("No row fits.", "没有符合条件的行。"),
      info: words("Rows _START_ to _END_ of _TOTAL_", "第 _START_ 至 _END_ 行，共 _TOTAL_ 行"),
      infoEmpty: words("No rows", "无"),
      infoFiltered: "",
    },
  });
});
// Paper shows every row.
addEventListener("beforeprint", () => tables.forEach((table) => table.page.len(-1).draw()));
addEventListener("afterprint", () => tables.forEach((table) => table.page.len(20).draw()));
