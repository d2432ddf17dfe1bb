"use strict";
// Without this everything can be read; with it lists can be searched, and print shows what is folded.
for (const form of document.querySelectorAll(".search")) {
  const list = form.closest(".searched");
  const items = [...list.querySelectorAll("[data-item]")];
  const texts = items.map((item) => item.textContent.normalize("NFKC").toLowerCase());
  const [input, select, count] = ["input", "select", "output"].map((tag) => form.querySelector(tag));
  const show = () => {
    const words = input.value.normalize("NFKC").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    items.forEach((item, i) => {
      const kind = !select || select.value === "all" || select.value === item.dataset.item;
      item.hidden = !kind || !words.every((word) => texts[i].includes(word));
      shown += !item.hidden;
    });
    count.textContent = `${shown} of ${items.length}`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
}
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details:not(.long)")) each.open = true;
});
