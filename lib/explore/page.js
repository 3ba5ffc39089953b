(function (KEY, META, FRAMES) {
  "use strict";
  // A front end may move this script away from its element, or run it before the element is there.
  const script = document.currentScript;
  const pen = document.createElement("canvas").getContext("2d");
  let tries = 0;
  (function find() {
    const free = `.xpl[data-key="${KEY}"]:not([data-ready])`;
    const near = script && script.previousElementSibling;
    const root = near && near.matches(free) ? near : document.querySelector(free);
    if (root) start(root);
    else if (tries++ < 50) setTimeout(find, 100);
  })();

  async function start(root) {
    root.dataset.ready = "";
    let pictures;
    try {
      pictures = FRAMES.png || (await unpack(FRAMES.svg));
    } catch {
      return; // a browser from before 2023: the first state's picture and numbers stay, and no control appears
    }
    run(root, pictures);
  }

  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const { lines, frames } = await new Response(stream).json();
    return frames.map((runs) => {
      const picture = [];
      for (let k = 0; k < runs.length; k += 2) picture.push(...lines.slice(runs[k], runs[k] + runs[k + 1]));
      return picture.join("\n");
    });
  }

  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  }

  function run(root, pictures) {
    const own = "xpl" + Math.random().toString(36).slice(2, 9) + "-"; // ids repeat between explorables, and must not
    const at = [...META.start];
    const box = root.querySelector(".xpl-controls");
    const picture = root.querySelector(".xpl-picture");
    const state = root.querySelector(".xpl-state > span");
    const cells = [...root.querySelectorAll(".xpl-read td > span")];
    const heard = make("p", "xpl-heard");
    heard.setAttribute("role", "status");
    root.append(heard);
    let heardNumbers = [];
    let timer;

    const makers = { slider, radio, select };
    const follow = META.axes.map((axis, place) => {
      const [element, set] = makers[axis.control](axis, own + place, (position) => {
        at[place] = position;
        show();
      });
      box.append(element);
      return set;
    });
    const reset = make("button", "xpl-reset", "Reset");
    reset.type = "button";
    reset.addEventListener("click", () => {
      at.splice(0, at.length, ...META.start);
      show();
    });
    box.append(reset);
    quiet(box);
    box.hidden = false;
    // Keep the room that the widest words of any state need, so that nothing jumps.
    reserve(state.parentElement, [say(META.axes.map((axis) => widest(state, axis.values)))]);
    cells.forEach((cell, row) => reserve(cell.parentElement, META.readouts.map((numbers) => numbers[row])));
    root.explorable = { meta: META, pictures: pictures.length };
    show();

    function show() {
      const index = at.reduce((sum, position, place) => sum * META.axes[place].values.length + position, 0);
      const numbers = META.readouts[index];
      const words = say(META.axes.map((axis, place) => axis.values[at[place]]));
      const first = root.dataset.frame === undefined;
      root.dataset.frame = index;
      follow.forEach((set, place) => set(at[place]));
      state.textContent = words;
      const changed = cells.filter((cell, row) => cell.textContent !== numbers[row]);
      cells.forEach((cell) => (cell.className = ""));
      void root.offsetWidth; // an animation starts anew only if the page has been laid out without it
      changed.forEach((cell) => (cell.className = "xpl-new"));
      cells.forEach((cell, row) => (cell.textContent = numbers[row]));
      paint(index, `${META.alt}: ${words}`);
      clearTimeout(timer);
      timer = setTimeout(() => {
        const news = META.names.map((name, row) => `${name} ${numbers[row]}`).filter((_, row) => numbers[row] !== heardNumbers[row]);
        if (!first) heard.textContent = [words, ...news].join("; ");
        heardNumbers = numbers;
        root.dataset.said = index;
      }, first ? 0 : 150);
    }

    function paint(index, alt) {
      if (FRAMES.png) {
        const image = picture.querySelector("img");
        image.src = "data:image/png;base64," + pictures[index];
        image.alt = alt;
      } else {
        picture.innerHTML = pictures[index].replace(/( id="|href="#|url\(#)/g, "$1" + own);
        picture.firstElementChild.setAttribute("role", "img");
        picture.firstElementChild.setAttribute("aria-label", alt);
      }
      root.dataset.shown = index;
    }
  }

  function say(values) {
    return META.axes.map((axis, place) => `${axis.label} = ${values[place]}`).join(", ");
  }

  function widest(element, texts) {
    pen.font = getComputedStyle(element).font;
    return texts.reduce((one, other) => (pen.measureText(one).width < pen.measureText(other).width ? other : one));
  }

  function reserve(element, texts) {
    element.dataset.widest = widest(element, texts);
  }

  // Each control is [element, set]: `set` shows a position that came from elsewhere (Reset, say).

  function slider(axis, id, choose) {
    const last = axis.values.length - 1;
    const input = make("input");
    Object.assign(input, { type: "range", min: 0, max: last, step: 1, id });
    const value = make("output");
    value.setAttribute("aria-hidden", "true"); // the input says it
    const label = make("label", "", axis.label, value);
    label.htmlFor = id;
    const ticks = make("div", "xpl-ticks");
    ticks.setAttribute("aria-hidden", "true");
    axis.values.forEach((text, position) => {
      const end = position === 0 || position === last;
      if (!end && last > 24) return;
      const tick = make("span", "", ...(end ? [make("b", "", text)] : []));
      tick.style.setProperty("--xpl-at", `${(100 * position) / last}%`);
      ticks.append(tick);
    });
    input.addEventListener("input", () => choose(+input.value));
    return [make("div", "xpl-control xpl-slider", label, input, ticks), (position) => {
      input.value = position;
      input.setAttribute("aria-valuetext", axis.values[position]);
      const part = position / last;
      input.style.setProperty("--xpl-at", `calc(${part} * (100% - var(--xpl-thumb)) + var(--xpl-thumb) / 2)`);
      value.textContent = axis.values[position];
    }];
  }

  function radio(axis, id, choose) {
    const inputs = axis.values.map((_, position) => {
      const input = make("input");
      Object.assign(input, { type: "radio", name: id, value: position });
      input.addEventListener("change", () => choose(position));
      return input;
    });
    const choices = make("div", "xpl-choices", ...inputs.map((input, k) => make("label", "", input, make("span", "", axis.values[k]))));
    return [make("fieldset", "xpl-control", make("legend", "", axis.label), choices), (position) => {
      inputs[position].checked = true;
    }];
  }

  function select(axis, id, choose) {
    const menu = make("select", "", ...axis.values.map((text) => make("option", "", text)));
    menu.id = id;
    const label = make("label", "", axis.label);
    label.htmlFor = id;
    menu.addEventListener("change", () => choose(menu.selectedIndex));
    return [make("div", "xpl-control", label, menu), (position) => {
      menu.selectedIndex = position;
    }];
  }

  // Notebook front ends take plain keys for commands: arrows move between cells, Enter edits one.
  function quiet(box) {
    const keys = /^(Arrow|Home$|End$|Page|Enter$| $)/;
    box.addEventListener("keydown", (event) => {
      if (keys.test(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
    });
    for (const element of box.querySelectorAll("input, select, button")) element.dataset.lmSuppressShortcuts = "true";
  }
})
