"use strict";
const documents = [...document.querySelectorAll("article[data-verdicts]")];
const verdict = document.getElementById("verdict");
const category = document.getElementById("category");
const shown = document.getElementById("shown");

function filter() {
  const has = (list, wanted) => !wanted || JSON.parse(list).includes(wanted);
  let count = 0;
  for (const article of documents) {
    const fits = has(article.dataset.verdicts, verdict.value) && has(article.dataset.categories, category.value);
    article.hidden = !fits;
    count += fits;
    const text = article.querySelector(".document");
    const found = fits && verdict.value && text.querySelector(`mark.${verdict.value}`);
    text.scrollTop = found ? found.offsetTop - 100 : 0;
  }
  shown.textContent = `${count} of ${documents.length}`;
}

if (verdict && category) {
  verdict.addEventListener("change", filter);
  category.addEventListener("change", filter);
  filter();
}
