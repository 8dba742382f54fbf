"use strict";
const articles = [...document.querySelectorAll("article[data-column]")];
const column = document.getElementById("column");
const outcome = document.getElementById("outcome");
const words = document.getElementById("words");
const shown = document.getElementById("shown");

function filter() {
  const wanted = words.value.toLowerCase();
  let count = 0;
  for (const article of articles) {
    const fits = (!column.value || article.dataset.column === column.value)
      && (!outcome.value || JSON.parse(article.dataset.outcomes).includes(outcome.value))
      && (!wanted || article.textContent.toLowerCase().includes(wanted));
    article.hidden = !fits;
    count += fits;
  }
  shown.textContent = `${count} of ${articles.length}`;
}

if (column && outcome && words) {
  for (const control of [column, outcome]) control.addEventListener("change", filter);
  words.addEventListener("input", filter);
  filter();
}
