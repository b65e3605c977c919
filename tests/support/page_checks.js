"use strict";
// Put into a page by page_checks.py; each answers with what is wrong.
const checks = {
  // Text that is too pale for its ground (WCAG 2: 4.5, of large text 3), as "text: ratio".
  pale() {
    const parse = text => {
      const m = text.match(/[\d.]+/g).map(Number);
      return text.startsWith("color(srgb") ? [m[0] * 255, m[1] * 255, m[2] * 255, m[3] ?? 1] : [m[0], m[1], m[2], m[3] ?? 1];
    };
    const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
    const light = c => {
      const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const ground = element => {
      const chain = [];
      for (let e = element; e; e = e.parentElement) chain.unshift(parse(getComputedStyle(e).backgroundColor));
      return chain.reduce((below, above) => over(above, below), dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
    };
    const found = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode());) {
      const element = node.parentElement;
      if (!node.data.trim() || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
      if (element.closest("script,style,option,:disabled")) continue;
      const style = getComputedStyle(element), below = ground(element);
      const text = over(parse(element.closest("svg") ? style.fill : style.color), below);
      const [a, b] = [light(text), light(below)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
      const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (ratio < (large ? 3 : 4.5) - 0.005) found.add(node.data.trim().slice(0, 40) + ": " + ratio.toFixed(2));
    }
    return [...found];
  },
  // Elements that reach out of the window and are in nothing that scrolls.
  wide() {
    const inside = document.documentElement.clientWidth + 1;
    const scrolls = e => {
      for (; e && e !== document.documentElement; e = e.parentElement)
        if (e !== document.body && ["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(e).overflowX)) return true;
      return false;
    };
    return [...document.body.querySelectorAll("*")]
      .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > inside && !e.closest("svg") && !scrolls(e.parentElement))
      .map(e => `${e.tagName} ${e.id || e.className}`).slice(0, 5);
  },
  // Whatever can be used gets an index, by which it is known once it has the focus; how many there are.
  number() {
    const usable = [...document.querySelectorAll("a[href],button,input,select,textarea,summary,[tabindex]")].filter(e =>
      e.tabIndex >= 0 && !e.disabled && e.checkVisibility({ visibilityProperty: true }) && !(e.type === "radio" && !e.checked));
    usable.forEach((e, i) => e.setAttribute("data-usable", i));
    document.activeElement.blur();
    return usable.length;
  },
  here() {
    return document.activeElement ? document.activeElement.getAttribute("data-usable") : null;
  },
  nameless() {
    return [...document.querySelectorAll("button,input,select,textarea,img,canvas,svg[role=img]")].filter(e =>
      e.checkVisibility() && !e.closest("[aria-hidden=true]") && !(e.getAttribute("aria-label") || e.getAttribute("title") || e.hasAttribute("alt") || e.textContent.trim() || (e.labels && e.labels.length)))
      .map(e => e.outerHTML.slice(0, 80));
  },
};
