"use strict";
const at = (id) => document.getElementById(id);
const mostBytes = Number(document.body.dataset.mostBytes);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
let asked = null;
let shown = "";

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function fail(text) {
  at("state").textContent = "";
  at("error").textContent = text;
  at("error").hidden = false;
  at("answer").hidden = at("pair").hidden = true;
}

function topRow(guess) {
  const row = element("tr");
  const name = element("th", guess.name);
  name.scope = "row";
  const bar = element("td");
  const meter = element("meter");
  meter.value = guess.confidence;
  meter.setAttribute("aria-hidden", "true");
  bar.append(meter);
  row.append(name, bar, element("td", percent(guess.confidence), "number"));
  return row;
}

function told(one, other) {
  const card = element("article");
  const from = one.source === "difference prompts" && other
    ? `What tells it from ${other.name}` : "What the model compares the photograph with";
  const list = element("ul");
  list.append(...one.texts.map((text) => element("li", text)));
  card.append(element("h3", one.name), element("p", from, "soft source"), list);
  if (one.pictures.length) {
    const thumbs = element("div", undefined, "thumbs");
    one.pictures.forEach((address, index) => {
      const figure = element("figure");
      const image = element("img");
      image.addEventListener("load", () => figure.classList.toggle("small", image.naturalWidth < 97));
      image.src = address;
      image.alt = `${one.name}: ${one.captions[index]}`;
      figure.append(image, element("figcaption", one.captions[index], "soft"));
      thumbs.append(figure);
    });
    card.append(thumbs);
  }
  return card;
}

function show(answer, file) {
  URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  at("photo").src = shown;
  at("photo-name").textContent = file.name || "";
  at("prediction").textContent = answer.prediction;
  at("confidence").textContent = percent(answer.confidence);
  at("unsure").hidden = answer.unsure !== true;
  at("second-line").hidden = !answer.second;
  if (answer.second) {
    at("second").textContent = answer.second.name;
    at("second-confidence").textContent = percent(answer.second.confidence);
  }
  const base = answer.base_prediction;
  at("base-line").hidden = base === null;
  if (base !== null) {
    const sure = answer.base_confidence === null ? "" : `, ${percent(answer.base_confidence)}`;
    at("base-line").textContent = base === answer.prediction
      ? `The base model says the same${sure}.` : `The base model would have said: ${base}${sure}.`;
  }
  at("top").replaceChildren(...answer.top.map(topRow));
  at("told").replaceChildren(...answer.told.map((one, index) => told(one, answer.told[1 - index])));
  at("pair-heading").textContent = answer.told.length > 1
    ? "How the two likeliest classes differ" : "About this class";
  at("answer").hidden = at("pair").hidden = false;
  at("state").textContent = "";
  at("prediction").focus({preventScroll: true});
  at("answer").scrollIntoView({block: "nearest"});
}

async function ask(file) {
  if (asked) asked.abort();
  const mine = asked = new AbortController();
  at("error").hidden = true;
  if (file.size > mostBytes) {
    fail(`${(file.size / 1e6).toFixed(1)} MB, more than the ${mostBytes / 1e6} MB that an image may take here.`);
    return;
  }
  at("state").textContent = "Looking at the photograph …";
  const form = new FormData();
  form.append("image", file, file.name || "pasted");
  try {
    const reply = await fetch("/predict", {method: "POST", body: form, signal: mine.signal});
    const content = await reply.json();
    if (mine !== asked) return;
    if (reply.ok) show(content, file);
    else fail(`No answer: ${content.error}`);
  } catch (problem) {
    if (mine === asked) fail("No answer: the service cannot be reached. Is it still running?");
  }
}

function askFirst(files, missing) {
  const file = [...files].find((each) => each.type.startsWith("image/")) || files[0];
  if (file) ask(file);
  else if (missing) fail(missing);
}

at("file").addEventListener("change", (event) => {
  askFirst(event.target.files);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  askFirst(event.dataTransfer.files, "That was no file. Save the picture first, then drop the file.");
});
document.addEventListener("paste", (event) => {
  askFirst(event.clipboardData.files, "There is no picture in the clipboard.");
});
at("here").textContent = `${location.origin}/`;
