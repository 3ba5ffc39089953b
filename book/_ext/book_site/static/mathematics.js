// Replace each formula's TeX by KaTeX's drawing and MathML. KaTeX itself is loaded before this script.
(() => {
  "use strict";

  const typeset = (formula) => {
    const holder = formula.querySelector(".tex") ?? formula;
    const [, opening, tex] = holder.textContent.trim().match(/^\\([([])([^]*)\\[)\]]$/) ?? [];
    if (tex === undefined) return;
    katex.render(tex, holder, { displayMode: opening === "[", throwOnError: false });
  };

  // What is wider than its box scrolls inside it, so the keyboard must be able to reach it.
  const makeScrollable = () => {
    for (const box of document.querySelectorAll(".katex-display")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };

  document.querySelectorAll(".math").forEach(typeset);
  makeScrollable();
  document.fonts.ready.then(makeScrollable);
  addEventListener("resize", makeScrollable);
})();
