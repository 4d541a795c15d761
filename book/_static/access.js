// What the theme and matplotlib leave without a name, so that screen readers can say it.
window.addEventListener("load", function () {
  const all = (selector, change) => document.querySelectorAll(selector).forEach(change);
  const name = (text) => (element) => element.setAttribute("aria-label", text(element));
  all(".search-button__button", name((e) => e.innerText.replace(/\s+/g, " ").trim() || "Search"));
  all("summary:has(.toctree-toggle)", name((e) => "Pages under " + (e.closest("li")?.querySelector("a")?.textContent.trim() || "this one")));
  all("details > summary[aria-label='Toggle hidden content']", (e) => e.removeAttribute("aria-label"));
  all("div.citation-list[role=list] > div", (e) => e.setAttribute("role", "listitem"));
  all("input.anim-slider", name(() => "frame of the animation"));
  all(".theme-switch-button", function (button) { // the button says it, its picture, which is drawn later, need not
    const hush = () => button.querySelectorAll("svg:has(title)").forEach(function (e) {
      e.querySelector("title").remove();
      e.removeAttribute("role");
      e.setAttribute("aria-hidden", "true");
    });
    hush();
    new MutationObserver(hush).observe(button, { childList: true, subtree: true });
  });
});
// What is cut off at the right is marked, so that the style sheet can let it fade; a figure that scrolls takes the keyboard,
// as what the theme and MathJax let scroll does.
(function () {
  const boxes = ".pst-scrollable-table-container, .cell_output > .output, figure.wide, mjx-container[display]";
  const mark = function (box) {
    const more = getComputedStyle(box).overflowX === "visible" ? 0 : box.scrollWidth - box.clientWidth;
    box.classList.toggle("cut", box.scrollLeft < more - 4);
    box.classList.toggle("scrolled", box.scrollLeft > 1);
    if (box.matches("figure") && more > 1) box.tabIndex = 0;
    else if (box.matches("figure")) box.removeAttribute("tabindex");
  };
  const sizes = new ResizeObserver((changed) => changed.forEach((e) => mark(e.target)));
  const watch = () => document.querySelectorAll(boxes).forEach((box) => sizes.observe(box));
  document.addEventListener("scroll", (e) => e.target.matches?.(boxes) && mark(e.target), true);
  window.addEventListener("load", function () {
    document.querySelectorAll(".bd-article figure:has(img)").forEach(function (figure) {
      const picture = figure.querySelector("img");
      figure.classList.toggle("wide", picture.naturalWidth > 500 || /\.svg$/.test(picture.src));
    });
    watch();
    window.MathJax?.startup?.promise?.then(watch);
  });
})();
// Paper is white, and one can neither leaf nor unfold on it: pages print in light mode, sliders that do not play with all
// their pictures, and the runs behind a table with their keys.
(function () {
  const page = document.documentElement.dataset;
  let theme, folded = [];
  window.addEventListener("beforeprint", function () {
    theme = page.theme;
    page.theme = "light";
    folded = [...document.querySelectorAll("details.runs:not([open])")];
    folded.forEach((e) => { e.open = true; });
    document.querySelectorAll(".migcore-slider:not(:has(button)) > img").forEach(function (picture) {
      const figure = document.createElement("figure");
      picture.replaceWith(figure);
      picture.hidden = false;
      figure.append(picture, picture.alt);
    });
  });
  window.addEventListener("afterprint", function () {
    page.theme = theme;
    folded.forEach((e) => { e.open = false; });
    document.querySelectorAll(".migcore-slider:has(figure)").forEach(function (box) {
      box.querySelectorAll("figure").forEach((figure) => figure.replaceWith(figure.firstChild));
      box.querySelector("input").dispatchEvent(new Event("input"));
    });
  });
})();
