"use strict";
const FIRST = 20; // entries of a list that are shown; the others on request, by a search, and in print
// The page is readable without this script; with it lists can be searched, and print shows collapsed details.
for (const form of document.querySelectorAll(".search")) {
  const list = form.closest(".searched");
  const items = [...list.querySelectorAll("[data-item]")];
  const texts = items.map((item) => item.textContent.normalize("NFKC").toLowerCase());
  const [input, select, count, more] = ["input", "select", "output", "button"].map((tag) => form.querySelector(tag));
  let most = FIRST;
  const show = () => {
    const words = input.value.normalize("NFKC").toLowerCase().split(/\s+/).filter(Boolean);
    const kind = select && select.value !== "all" ? select.value : null;
    const found = items.filter(
      (item, i) => (!kind || kind === item.dataset.item) && words.every((word) => texts[i].includes(word)),
    );
    const shown = new Set(found.slice(0, most));
    for (const item of items) item.hidden = !shown.has(item);
    count.textContent = `${shown.size} of ${items.length}`;
    more.textContent = `Show ${found.length - shown.size} more`;
    more.hidden = shown.size === found.length;
  };
  const showAll = () => {
    most = items.length;
    show();
  };
  more.addEventListener("click", showAll);
  addEventListener("beforeprint", showAll);
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
}
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details:not(.long)")) each.open = true;
});
