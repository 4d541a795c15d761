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
// Paper is white, and one cannot leaf on it: pages print in light mode, and sliders that do not play with all their pictures.
(function () {
  const page = document.documentElement.dataset;
  let theme;
  window.addEventListener("beforeprint", function () {
    theme = page.theme;
    page.theme = "light";
    document.querySelectorAll(".migcore-slider:not(:has(button)) > img").forEach(function (picture) {
      const figure = document.createElement("figure");
      picture.replaceWith(figure);
      picture.hidden = false;
      figure.append(picture, picture.alt);
    });
  });
  window.addEventListener("afterprint", function () {
    page.theme = theme;
    document.querySelectorAll(".migcore-slider:has(figure)").forEach(function (box) {
      box.querySelectorAll("figure").forEach((figure) => figure.replaceWith(figure.firstChild));
      box.querySelector("input").dispatchEvent(new Event("input"));
    });
  });
})();
