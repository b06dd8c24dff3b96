"use strict";
(() => {
  const PER_PAGE = 24;
  const root = document.documentElement;
  root.classList.add("js");

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const named = (text) => make("bdi", {}, text);
  const number = (value) => (Math.round(10 * value) / 10).toLocaleString("en-US");

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Pages from disk may not use the clipboard directly.
      const area = make("textarea", { class: "unseen" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
  const copyButton = (text, what) => make("button", {
    type: "button", class: "copy", "aria-label": `Copy ${what} ${text}`, onclick: (event) => copy(text, event.currentTarget),
  }, "Copy");
  for (const code of document.querySelectorAll("[data-copy]")) {
    code.after(copyButton(code.textContent, code.dataset.copy === "file" ? "file name" : "command"));
  }

  const tip = make("div", { class: "tip", role: "status", hidden: true });
  document.body.append(tip);
  const hideTip = () => { tip.hidden = true; };
  function showTip(x, y, ...content) {
    tip.replaceChildren(...content);
    tip.hidden = false;
    const left = Math.min(x + 14, innerWidth - tip.offsetWidth - 8);
    const below = y + 16 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? y + 16 : Math.max(8, y - tip.offsetHeight - 12)}px`;
  }
  addEventListener("scroll", hideTip, { passive: true, capture: true });

  for (const section of document.querySelectorAll("[data-section]")) {
    const anchor = section.dataset.section;
    const data = JSON.parse(document.getElementById(`${anchor}-data`).textContent);
    const inline = new Map();
    for (const image of section.querySelectorAll("img[data-picture]")) inline.set(+image.dataset.picture, image.src);
    const [IMAGE, TRUE, BEFORE, BEFORE_SURE, AFTER, AFTER_SURE, OUTCOME, LIKE, SEEDS] = Array(9).keys();

    const path = (image) => data.folders[data.files[image][0]] + data.files[image][1];
    const source = (image) => inline.get(image) ?? (data.pictures[image] ? `data:image/webp;base64,${data.pictures[image]}` : null);
    const picture = (image) => {
      const src = source(image);
      return src ? make("img", { class: "picture", src, alt: path(image) }) : make("span", { class: "picture none" }, "no picture");
    };
    for (const place of section.querySelectorAll("span[data-picture]")) place.replaceWith(picture(+place.dataset.picture));

    const fact = (term, ...value) => [make("dt", {}, term), make("dd", {}, ...value)];
    const answer = (name, sure) => [name < 0 ? "no answer" : named(data.names[name]), sure < 0 ? null : ` ${sure}\u00a0%`];
    function card(row, labels) {
      const like = row[LIKE] >= 0 ? make("figure", {}, picture(row[LIKE]), make("figcaption", { title: path(row[LIKE]) }, "representative confusing image")) : null;
      const seeds = data.seeds > 1 && row[SEEDS] && labels === data.labels ? ` in ${row[SEEDS]} of ${data.seeds} seeds` : "";
      return make("li", { class: "card", "data-file": path(row[IMAGE]) },
        data.pictured ? make("div", { class: "pictures" }, picture(row[IMAGE]), like) : null,
        make("div", {}, make("dl", {},
          ...fact("shows", named(data.names[row[TRUE]])),
          ...fact(labels === data.labels ? "base model" : labels[0], ...answer(row[BEFORE], row[BEFORE_SURE])),
          ...(labels[1] ? fact(labels === data.labels ? "repaired" : labels[1], ...answer(row[AFTER], row[AFTER_SURE])) : [])),
        make("span", { class: "chip" }, make("i", { class: `o-${row[OUTCOME]}` }), data.outcomes[row[OUTCOME]] + seeds),
        make("div", {}, make("code", {}, path(row[IMAGE])), copyButton(path(row[IMAGE]), "file name"))));
    }
    function gallery(rows, labels = data.labels) {
      const box = make("div"), cards = make("ul", { class: "cards" }), filters = make("div", { class: "filters" });
      let shown = rows, count = 0;
      const more = make("button", { type: "button", onclick: () => extend() });
      const extend = () => {
        cards.append(...shown.slice(count, count + PER_PAGE).map((row) => card(row, labels)));
        count = Math.min(shown.length, count + PER_PAGE);
        more.hidden = count === shown.length;
        more.textContent = `Show more (${shown.length - count} left)`;
      };
      const show = (outcome) => {
        shown = outcome === null ? rows : rows.filter((row) => row[OUTCOME] === outcome);
        count = 0;
        cards.replaceChildren();
        extend();
        for (const button of filters.children) button.setAttribute("aria-pressed", button.value === String(outcome));
      };
      const outcomes = [...new Set(rows.map((row) => row[OUTCOME]))].sort();
      if (outcomes.length > 1) {
        const choice = (outcome, text, total) => make("button", { type: "button", value: String(outcome), onclick: () => show(outcome) }, `${text} ${total}`);
        filters.append(choice(null, "all", rows.length), ...outcomes.map((outcome) => choice(outcome, data.outcomes[outcome], rows.filter((row) => row[OUTCOME] === outcome).length)));
        box.append(filters);
      }
      box.append(rows.length ? cards : make("p", { class: "nothing" }, "No image."), more);
      show(null);
      return box;
    }
    function openPanel(panel, title, content, back) {
      const close = () => { panel.hidden = true; panel.replaceChildren(); back?.(); };
      const heading = make("h4", { tabindex: -1 }, ...title);
      panel.replaceChildren(make("button", { type: "button", class: "close", "aria-label": "Close", onclick: close }, "✕"), heading, ...content);
      panel.onkeydown = (event) => { if (event.key === "Escape") { event.stopPropagation(); close(); } };
      panel.hidden = false;
      panel.scrollTop = 0;
      heading.focus({ preventScroll: true });
      panel.scrollIntoView({ block: "nearest" });
    }

    const rowsOf = (truth, taken, before, after) => data.rows.filter((row) => row[TRUE] === truth && ((before && row[BEFORE] === taken) || (after && row[AFTER] === taken)));
    for (const block of section.querySelectorAll("[data-matrix]")) matrix(block);
    function matrix(block) {
      const table = block.querySelector("table.cells"), panel = block.querySelector("aside");
      const ids = [...table.tHead.querySelectorAll("[data-id]")].map((head) => +head.dataset.id);
      const grid = [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1, -1));
      const images = [...table.tBodies[0].rows].map((row) => +row.dataset.images);
      let at = [0, 0];
      const repaired = data.repaired;
      table.dataset.mode = "before";
      table.setAttribute("role", "grid");
      table.setAttribute("aria-label", "Confusions: rows are true classes, columns classes taken for");
      const place = (cell) => [cell.parentElement.rowIndex - 1, cell.cellIndex - 1];
      const isCell = (node) => { const cell = node.closest?.("tbody td:not(.sum)"); return cell && table.contains(cell) ? cell : null; };
      const words = (row, column) => {
        const cell = grid[row][column], truth = data.names[ids[row]], taken = data.names[ids[column]];
        const part = (text) => images[row] ? ` (${(100 * text.replaceAll(",", "") / images[row]).toFixed(1)}\u00a0%)` : "";
        const before = cell.querySelector(".b")?.textContent ?? "0", after = cell.querySelector(".a")?.textContent ?? "0";
        const counts = `${before} of ${images[row]} images${part(before)}${repaired ? `; after the repair ${after}${part(after)}` : ""}`;
        return row === column ? `${truth} recognised: ${counts}` : `${truth} taken for ${taken}: ${counts}`;
      };
      grid.flat().forEach((cell) => { cell.tabIndex = -1; });
      if (grid.length) grid[0][0].tabIndex = 0;
      const move = (row, column) => {
        row = Math.max(0, Math.min(grid.length - 1, row));
        column = Math.max(0, Math.min(grid.length - 1, column));
        grid[at[0]][at[1]].tabIndex = -1;
        at = [row, column];
        const cell = grid[row][column];
        cell.tabIndex = 0;
        cell.setAttribute("aria-label", words(row, column));
        cell.focus();
        cell.scrollIntoView({ block: "nearest", inline: "nearest" });
      };
      const open = (cell) => {
        const [row, column] = place(cell);
        table.querySelector(".chosen")?.classList.remove("chosen");
        cell.classList.add("chosen");
        at[0] !== row || at[1] !== column ? move(row, column) : null;
        hideTip();
        const mode = table.dataset.mode;
        const truth = ids[row], taken = ids[column];
        const found = row === column
          ? data.rows.filter((each) => each[TRUE] === truth && data.outcomes[each[OUTCOME]] === "repaired")
          : rowsOf(truth, taken, mode !== "after", mode !== "before");
        const title = row === column ? [named(data.names[truth]), ": repaired images"] : [named(data.names[truth]), " taken for ", named(data.names[taken])];
        openPanel(panel, title, [make("p", { class: "small" }, words(row, column)), gallery(found)], () => { cell.classList.remove("chosen"); cell.focus(); });
      };
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -Infinity], End: [0, Infinity], PageUp: [-10, 0], PageDown: [10, 0] };
      table.addEventListener("keydown", (event) => {
        const cell = isCell(event.target);
        if (!cell || event.altKey || event.metaKey) return;
        const step = steps[event.key];
        if (step) { const [row, column] = place(cell); move(row + step[0], column + step[1]); event.preventDefault(); }
        if (event.key === "Enter" || event.key === " ") { open(cell); event.preventDefault(); }
        if (event.key === "Escape") { hideTip(); panel.querySelector(".close")?.click(); }
      });
      table.addEventListener("click", (event) => { const cell = isCell(event.target); if (cell) open(cell); });
      const tell = (cell, x, y) => { if (cell) showTip(x, y, words(...place(cell))); else hideTip(); };
      table.addEventListener("pointermove", (event) => tell(isCell(event.target), event.clientX, event.clientY));
      table.addEventListener("pointerleave", hideTip);
      table.addEventListener("focusin", (event) => {
        const cell = isCell(event.target);
        if (!cell?.matches(":focus-visible")) return;
        // After the scrolling that the focus causes, which hides it.
        requestAnimationFrame(() => requestAnimationFrame(() => {
          const box = cell.getBoundingClientRect();
          if (document.activeElement === cell) tell(cell, box.right, box.bottom);
        }));
        cell.setAttribute("aria-label", words(...place(cell)));
      });
      table.addEventListener("focusout", hideTip);
      for (const button of block.querySelectorAll("[data-mode]:not(table)")) button.addEventListener("click", () => {
        table.dataset.mode = button.dataset.mode;
        for (const other of button.parentElement.children) other.setAttribute("aria-pressed", other === button);
      });
    }

    const list = section.querySelector("[data-pairs]");
    if (list) pairs(list);
    function pairs(list) {
      const largest = +list.dataset.largest, models = new Map();
      const bar = (...parts) => make("span", { class: "bar" }, ...parts.filter((part) => part[1]).map(([kind, value]) => make("i", { class: `s-${kind}`, style: `width:${100 * value / largest}%` })));
      const several = (value, text) => `${number(value)} ${text}`;
      function further([truth, taken, images, before, after, repaired, same, another, newly, moved, to]) {
        const bars = data.repaired ? [bar(["repaired", repaired], ["same", same], ["another", another]), bar(["same", same], ["newly", newly], ["moved", moved])] : [bar(["same", before])];
        const tells = data.repaired
          ? [make("span", {}, make("b", {}, number(before)), " before" + (before ? `: ${several(repaired, "right now")}, ${several(same, "same error")}, ${several(another, "another error")}` : ""), ...(to ? [" (mostly ", named(to), ")"] : [])),
            make("span", {}, make("b", {}, number(after)), " after" + (after ? `: ${several(same, "same error")}, ${several(newly, "newly wrong")}, ${several(moved, "moved here")}` : ""))]
          : [make("span", {}, make("b", {}, number(before)), ` of ${images} test images`)];
        return make("details", { class: "pair", id: `${anchor}-${truth}-${taken}`, "data-true": data.names[truth], "data-taken": data.names[taken], "data-images": images, "data-count": before, "data-after": data.repaired ? after : null, "data-repaired": data.repaired ? repaired : null },
          make("summary", {}, make("span", { class: "who" }, named(data.names[truth]), make("span", { class: "soft" }, " taken for "), named(data.names[taken])), make("span", { class: "bars", "aria-hidden": "true" }, ...bars), make("span", { class: "tells" }, ...tells)),
          make("div", { class: "images" }));
      }
      list.append(...data.pairs.map(further));
      for (const node of list.children) {
        const { true: truth, taken, count, after, repaired, images } = node.dataset;
        models.set(node, { text: `${truth} ${taken}`.toLowerCase(), name: truth, before: +count, after: +(after ?? 0), repaired: +(repaired ?? 0), worse: (after ?? 0) - count, share: count / (+images || 1) });
        node.addEventListener("toggle", () => { if (node.open) fill(node); });
        if (node.open) fill(node);
      }
      function fill(node) {
        if (node.dataset.filled) return;
        node.dataset.filled = "yes";
        const [truth, taken] = node.id.split("-").slice(1).map(Number);
        node.querySelector(".images").replaceChildren(gallery(rowsOf(truth, taken, true, true)));
      }
      const search = section.querySelector("[data-search]"), order = section.querySelector("[data-order]"), told = section.querySelector("[data-found]");
      const filter = () => {
        const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
        let count = 0;
        for (const [node, model] of models) {
          node.hidden = !asked.every((word) => model.text.includes(word));
          count += !node.hidden;
        }
        told.textContent = `${number(count)} of ${number(models.size)} pairs`;
      };
      search.addEventListener("input", filter);
      order.addEventListener("change", () => {
        const by = order.value, sorted = [...models];
        sorted.sort(([, one], [, other]) => by === "name" ? one.text.localeCompare(other.text) : other[by] - one[by] || other.before - one.before);
        list.append(...sorted.map(([node]) => node));
      });
      filter();
    }

    const changes = section.querySelector("[data-changes]");
    if (changes) changes.replaceChildren(gallery(data.changes, [data.compared, "this run"]));

    const drawing = section.querySelector("[data-map]");
    if (drawing) map(drawing);
    function map(drawing) {
      const [xs, ys, classes, images] = data.map, panel = drawing.parentElement.querySelector("aside"), here = drawing.querySelector(".here");
      const chosen = section.querySelector("[data-map-class]"), only = section.querySelector("[data-map-errors]");
      const known = new Map();
      for (const row of data.rows) known.set(row[IMAGE], [...(known.get(row[IMAGE]) ?? []), row]);
      const visible = (index) => (!chosen.value || classes[index] === +chosen.value) && (!only.checked || known.has(images[index]));
      let at = -1;
      drawing.setAttribute("tabindex", 0);
      drawing.setAttribute("role", "application");
      const box = () => { const area = drawing.getBoundingClientRect(); return { left: area.left, top: area.top, unit: area.width / 1030 }; };
      function mark(index) {
        at = index;
        here.toggleAttribute("hidden", index < 0);
        if (index < 0) return hideTip();
        const { left, top, unit } = box(), rows = known.get(images[index]) ?? [];
        here.setAttribute("cx", xs[index]);
        here.setAttribute("cy", ys[index]);
        const row = rows[0];
        showTip(left + (xs[index] + 15) * unit, top + (ys[index] + 15) * unit, source(images[index]) ? picture(images[index]) : "", named(data.names[classes[index]]),
          ...(row ? [make("br"), row[BEFORE] === row[TRUE] ? "newly taken for " : "taken for ", named(data.names[row[BEFORE] === row[TRUE] ? row[AFTER] : row[BEFORE]]), data.repaired ? `, ${data.outcomes[row[OUTCOME]]}` : ""] : []), make("br"), make("code", {}, path(images[index])));
      }
      function nearest(event) {
        const { left, top, unit } = box(), x = (event.clientX - left) / unit - 15, y = (event.clientY - top) / unit - 15;
        let best = -1, least = Math.max(20, 12 / unit) ** 2;
        for (let index = 0; index < xs.length; index++) {
          const distance = (xs[index] - x) ** 2 + (ys[index] - y) ** 2;
          if (distance < least && visible(index)) { least = distance; best = index; }
        }
        return best;
      }
      const open = () => {
        if (at < 0) return;
        hideTip();
        const rows = known.get(images[at]);
        const plain = make("div", {}, source(images[at]) ? picture(images[at]) : null, make("code", {}, path(images[at])), copyButton(path(images[at]), "file name"));
        openPanel(panel, [named(data.names[classes[at]])], [rows ? gallery(rows) : plain], () => drawing.focus());
      };
      drawing.addEventListener("pointermove", (event) => mark(nearest(event)));
      drawing.addEventListener("pointerleave", () => mark(-1));
      drawing.addEventListener("click", (event) => { mark(nearest(event)); open(); });
      drawing.addEventListener("blur", hideTip);
      drawing.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (step) {
          const errors = [...xs.keys()].filter((index) => known.has(images[index]) && visible(index)).sort((one, other) => xs[one] - xs[other] || ys[one] - ys[other]);
          if (errors.length) mark(errors[(errors.indexOf(at) + step + errors.length) % errors.length]);
          event.preventDefault();
        }
        if (event.key === "Enter") { open(); event.preventDefault(); }
        if (event.key === "Escape") { mark(-1); panel.querySelector(".close")?.click(); }
      });
      const refresh = () => {
        for (const group of drawing.querySelectorAll("[data-class]")) group.toggleAttribute("hidden", Boolean(chosen.value) && group.dataset.class !== chosen.value);
        drawing.classList.toggle("errors-only", only.checked);
        mark(-1);
      };
      chosen.addEventListener("change", refresh);
      only.addEventListener("change", refresh);
    }
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => {
      if (head.classList.contains("plot")) return;
      const numeric = head.classList.contains("number");
      const value = (row) => { const text = row.cells[column].textContent.trim(); return numeric ? parseFloat(text.replace("−", "-").replaceAll(",", "")) : text; };
      const button = make("button", { type: "button", onclick: () => {
        const up = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up === 1 ? "ascending" : "descending");
        const missing = (one) => numeric && Number.isNaN(value(one));
        body.append(...[...body.rows].sort((one, other) => missing(one) - missing(other) || up * (numeric ? value(one) - value(other) : value(one).localeCompare(value(other))) || 0));
      } }, head.textContent);
      head.replaceChildren(button);
    });
  }

  const openTarget = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.matches("details.pair")) { target.hidden = false; target.open = true; target.scrollIntoView(); target.querySelector("summary").focus(); }
  };
  addEventListener("hashchange", openTarget);
  openTarget();
})();
