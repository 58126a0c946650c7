"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const id = (name) => document.getElementById(name);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const SVG = "http://www.w3.org/2000/svg";

  /** An element with attributes and children; text is only ever text. */
  function make(tag, attributes = {}, ...children) {
    const node = ["svg", "circle", "line", "title"].includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  /** A name that may go on in the next line behind a `_` or `.`. */
  const breakable = (name) => name.split(/(?<=[_.])/).flatMap((part) => [part, make("wbr")]);

  const written = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
    return text.replace("-", "−");
  };

  // ---- sorting: within methods, null rows and oracles, what has no value last

  function sortable(table) {
    const heads = all("thead tr:last-child th", table);
    heads.forEach((head, place) => {
      // No button element: browsers leave its text out of headings that they repeat on the next sheet of paper.
      const button = make("span", { role: "button", tabindex: 0 });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        button.click();
      });
      button.addEventListener("click", () => {
        const text = head.dataset.kind === "text";
        const first = text || Number(head.dataset.better) < 0 ? "ascending" : "descending";
        const turned = { ascending: "descending", descending: "ascending" };
        const way = head.hasAttribute("aria-sort") ? turned[head.getAttribute("aria-sort")] : first;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way);
        const sign = way === "ascending" ? 1 : -1;
        for (const body of table.tBodies) {
          const key = (row) => (text ? row.cells[0].textContent : row.cells[place].dataset.v);
          const rows = all("tr:not(.role)", body).map((row) => [key(row), row]);
          rows.sort(([a], [b]) => {
            const [none, other] = [a === undefined || a === "", b === undefined || b === ""];
            if (none || other) return none - other;
            return sign * (text ? a.localeCompare(b) : Number(a) - Number(b));
          });
          body.append(...rows.map(([, row]) => row));
        }
      });
    });
  }

  // ---- walking through the cells of a table, one stop of the tab key

  function walkable(table) {
    table.setAttribute("role", "grid");
    table.classList.add("live");
    all("tbody tr:not(.role)", table).forEach((row) => [...row.cells].slice(1).forEach((cell) => (cell.tabIndex = -1)));
    const columns = all("thead tr:last-child th", table);
    all("tbody tr:not(.role) td:not(.beside)", table).forEach((cell) => (cell.dataset.at = columns[cell.cellIndex].dataset.column));
    const start = table.querySelector("td[data-at]");
    if (start) start.tabIndex = 0;
    const reach = (row, step, place) => {
      const rows = all("tbody tr:not(.role):not([hidden])", table).filter((each) => !each.parentElement.hidden);
      const next = rows[rows.indexOf(row) + step];
      return next && next.cells[place];
    };
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td");
      if (!cell) return;
      const side = (step) => {
        let next = cell;
        do next = step > 0 ? next.nextElementSibling : next.previousElementSibling; while (next && next.hidden);
        return next && next.tagName === "TD" ? next : null;
      };
      const to = { ArrowRight: () => side(1), ArrowLeft: () => side(-1), ArrowDown: () => reach(cell.parentElement, 1, cell.cellIndex), ArrowUp: () => reach(cell.parentElement, -1, cell.cellIndex) }[event.key];
      if (to) {
        event.preventDefault();
        focus(to());
      } else if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        open(cell);
      }
    });
    const focus = (cell) => {
      if (!cell) return;
      all("td[tabindex='0']", table).forEach((other) => (other.tabIndex = -1));
      cell.tabIndex = 0;
      cell.focus();
    };
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("td[data-at]");
      if (!cell) return;
      focus(cell);
      open(cell);
    });
  }

  // ---- filters

  function filter() {
    const pair = id("pair").value;
    all("[data-pair]").forEach((block) => block.classList.toggle("other", pair !== "all" && block.dataset.pair !== pair));
    const text = id("text").value.trim().toLowerCase();
    const [role, family] = [id("role").value, id("family").value];
    const fits = (method) => method.toLowerCase().includes(text);
    let shown = 0, total = 0;
    all("table.board[data-of]").forEach((table) => {
      const visible = pair === "all" || table.dataset.of === pair;
      for (const body of table.tBodies) {
        body.hidden = Boolean(role) && body.dataset.role !== role;
        all("tr:not(.role)", body).forEach((row) => {
          row.hidden = !fits(row.dataset.method);
          if (visible && !("cost" in table.dataset)) {
            total += 1;
            shown += !row.hidden && !body.hidden;
          }
        });
      }
      const heads = all("thead th[data-family]", table);
      const kept = heads.filter((head) => head.dataset.column && (!family || head.dataset.family === family));
      table.closest(".scroll").hidden = kept.length === 0;
      heads.forEach((head) => (head.hidden = Boolean(family) && head.dataset.family !== family));
      const gone = new Set(heads.filter((head) => head.hidden && head.dataset.column).map((head) => head.cellIndex));
      all("tbody tr:not(.role)", table).forEach((row) => [...row.cells].forEach((cell) => (cell.hidden = gone.has(cell.cellIndex))));
      const stop = table.querySelector("td[tabindex='0']");
      if (!stop || stop.hidden || stop.parentElement.hidden || stop.closest("tbody").hidden) {
        if (stop) stop.tabIndex = -1;
        const next = all("tbody:not([hidden]) tr:not([hidden]) td[data-at]", table).find((cell) => !cell.hidden);
        if (next) next.tabIndex = 0;
      }
    });
    all("[data-panel]").forEach((panel) => (panel.hidden = !fits(panel.dataset.panel)));
    id("count").textContent = `${shown} of ${total} rows`;
    all("[data-drill]").forEach((drill) => drill.dispatchEvent(new Event("filter")));
  }

  // ---- images

  const named = (pair, image) => {
    const [uid, target] = pair.images[image];
    const name = pair.classes && pair.classes[target];
    return `${uid}, class ${target}${name ? ` (${name.split(",")[0]})` : ""}`;
  };

  /** A picture, or the word that stands where there is none. */
  function picture(source, told) {
    if (source && source.startsWith("data:")) return make("img", { class: "picture", src: source, alt: told });
    return make("div", { class: "picture word", role: "img", "aria-label": `${told}: ${source || "no picture"}` }, source || "no picture");
  }

  const image = (pair, place) => picture(pair.pictures[pair.images[place][0]], `Image ${named(pair, place)}`);
  const map = (pair, method, place) => picture((pair.maps[method] || {})[pair.images[place][0]], `Map of ${method} on ${pair.images[place][0]}`);

  function strip(values, told) {
    const known = values.filter((value) => value !== null);
    if (known.length < 2) return "";
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const x = (value) => 10 + (580 * (value - low)) / (high - low || 1);
    const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
    const label = `${told}: ${known.length} images from ${written(low)} to ${written(high)}`;
    const drawing = make("svg", { class: "strip", viewBox: "0 0 600 34", width: 600, height: 34, role: "img", "aria-label": label });
    drawing.append(make("line", { class: "axis", x1: 10, x2: 590, y1: 17, y2: 17 }));
    known.forEach((value, place) => drawing.append(make("circle", { cx: x(value), cy: 10 + ((place * 7) % 15), r: 3.5 })));
    drawing.append(make("line", { class: "mean", x1: x(mean), x2: x(mean), y1: 2, y2: 32 }));
    return make("figure", {}, make("figcaption", { class: "of" }, `${label}; the line is their mean`), drawing);
  }

  function open(cell) {
    const table = cell.closest("table");
    const pair = data[table.dataset.of];
    const [name, method] = [cell.dataset.at, cell.parentElement.dataset.method];
    const body = id("cell-body");
    id("cell-title").textContent = `${name} of ${method}`;
    const card = all("[data-metric]").find((each) => each.dataset.metric === name || name.startsWith(`${each.dataset.metric}.`));
    const link = card ? make("a", { href: `#${card.id}`, onclick: () => id("cell").close() }, "protocol of this metric") : "";
    const found = cell.dataset.v === undefined ? cell.title || "No number." : `Mean ${[...cell.childNodes].map((node) => node.textContent.trim()).filter(Boolean).join(" ")}`;
    body.replaceChildren(make("p", {}, `${pair.title}. ${found}`, link ? " · " : "", link));
    const row = pair.images.length ? pair.methods.indexOf(method) : -1;
    const extremes = (pair.extremes && pair.extremes[name] && pair.extremes[name][row]) || [];
    if (extremes.length) {
      const better = pair.columns.find((column) => column.name === name).better;
      const words = extremes.length === 3 ? (better ? ["best", "median", "worst"] : ["highest", "median", "lowest"]) : extremes.map(() => "image");
      const trio = extremes.map(([place, value], index) =>
        make("figure", {},
          make("figcaption", {}, make("b", {}, `${words[index]}: ${written(value)}`), make("br"), named(pair, place)),
          make("div", { class: "both" }, image(pair, place), map(pair, method, place)),
          make("button", { type: "button", onclick: () => show(table.dataset.of, place, name) }, "All methods on this image")));
      body.append(make("div", { class: "trio" }, ...trio));
      const values = pair.values[name][row];
      if (values) body.append(strip(values, name));
      if (pair.shown < pair.total) body.append(make("p", { class: "of" }, `The page holds the scores of ${pair.shown} of ${pair.total} images; best, median and worst are those among all.`));
    } else if (cell.dataset.v !== undefined) {
      body.append(make("p", {}, "This is one number for the whole cell: no images stand behind it."));
    }
    id("cell").showModal();
  }

  const drills = [];

  function show(pair, place, name) {
    id("cell").close();
    const drill = drills[pair];
    if (!drill) return;
    drill.select(place, name);
    drill.node.closest("article").scrollIntoView();
    drill.node.querySelector("select").focus({ preventScroll: true });
  }

  function drilled(node, number) {
    const pair = data[number];
    if (!pair.images.length) return null;
    const images = make("select", {}, ...pair.images.slice(0, pair.shown).map((each, place) => make("option", { value: place }, named(pair, place))));
    const columns = make("select", {}, ...pair.columns.map((column, place) => make("option", { value: place }, column.name)));
    const [before, after] = [make("button", { type: "button" }, "← previous"), make("button", { type: "button" }, "next →")];
    const tiles = make("div", { class: "tiles" });
    const values = make("table", { class: "board plain-values" });
    const table = make("details", {}, make("summary", {}, "All scores of this image"), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "All scores of this image" }, values));
    node.append(make("div", { class: "controls" }, make("label", {}, "Image ", images), before, after, make("label", {}, "Sorted by ", columns)), tiles, table);
    const scored = new Set(pair.methods.keys());
    scored.forEach((row) => pair.columns.some(({ name }) => pair.values[name][row]) || scored.delete(row));
    const step = (by) => { images.selectedIndex = (images.selectedIndex + by + images.length) % images.length; draw(); };
    before.addEventListener("click", () => step(-1));
    after.addEventListener("click", () => step(1));

    function draw() {
      const place = images.selectedIndex;
      const column = pair.columns[columns.selectedIndex];
      const [text, role] = [id("text").value.trim().toLowerCase(), id("role").value];
      const score = (row, name) => { const list = pair.values[name][row]; return list ? list[place] : null; };
      const rows = pair.methods.map((method, row) => row).filter((row) => scored.has(row) && pair.methods[row].toLowerCase().includes(text) && (!role || pair.roles[row] === role));
      const sign = column.better || 1;
      rows.sort((a, b) => {
        const [left, right] = [score(a, column.name), score(b, column.name)];
        if (left === null || right === null) return (left === null) - (right === null);
        return sign * (right - left);
      });
      const figures = rows.map((row) => {
        const note = pair.roles[row] === "method" ? "" : ` (${pair.roles[row]})`;
        return make("figure", { class: pair.roles[row] }, map(pair, pair.methods[row], place), make("figcaption", {}, `${pair.methods[row]}${note}`, make("br"), make("b", {}, written(score(row, column.name)))));
      });
      const known = rows.map((row) => score(row, column.name)).filter((value) => value !== null);
      tiles.replaceChildren(make("figure", {}, image(pair, place), make("figcaption", {}, named(pair, place))), ...figures);
      if (known.length && column.better) figures[0].querySelector("b").className = "best-value";
      if (!table.open) return;
      const best = pair.columns.map(({ name, better }) => better ? Math.max(...rows.map((row) => score(row, name)).filter((value) => value !== null).map((value) => better * value)) : NaN);
      const head = make("tr", {}, make("th", { scope: "col", "data-kind": "text" }, "method"), ...pair.columns.map(({ name, better }) => make("th", { scope: "col" }, ...breakable(name + { "1": "\u00a0↑", "-1": "\u00a0↓", "0": "" }[better]))));
      const lines = rows.map((row) => make("tr", {}, make("th", { scope: "row" }, pair.methods[row]), ...pair.columns.map(({ name, better }, index) => {
        const value = score(row, name);
        return make("td", value !== null && better * value === best[index] ? { class: "best" } : {}, make("b", {}, written(value)));
      })));
      values.replaceChildren(make("thead", {}, head), make("tbody", {}, ...lines));
    }
    [images, columns].forEach((control) => control.addEventListener("change", draw));
    table.addEventListener("toggle", draw);
    const visible = () => !node.closest("article").classList.contains("other");
    node.addEventListener("filter", () => visible() && draw());
    return {
      node,
      draw,
      select(place, name) {
        if (place < images.length) images.selectedIndex = place;
        columns.selectedIndex = Math.max(0, pair.columns.findIndex((column) => column.name === name));
        draw();
      },
    };
  }

  // ---- start

  document.documentElement.classList.add("js");
  all("table.board[data-of]").forEach((table) => { sortable(table); walkable(table); });
  all("[data-drill]").forEach((node, place) => drills.push(drilled(node, place)));
  const tools = document.querySelector(".tools");
  tools.hidden = false;
  tools.addEventListener("input", filter);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(filter));
  id("close").addEventListener("click", () => id("cell").close());
  id("cell").addEventListener("click", (event) => event.target === id("cell") && id("cell").close());
  window.addEventListener("beforeprint", () => drills.forEach((drill) => drill && drill.draw()));
  filter();
})();
