// Keeps a page as the cache is. Without it, or without a stream, every page works, and stays as it was when it was opened.
"use strict";

(() => {
  const MIN_PAUSE = 2000; // milliseconds between two looks at the same page
  const SLOW_PAUSE = 60000; // of the charts, which read every job
  const RETRY = 30000; // until a stream that was refused is asked for again
  const MAX_EVENTS = 2000; // lines kept on the page of a job

  const body = document.body;
  const follow = body.dataset.follow;
  if (!follow) return;

  let source = null;
  let age = null; // of the data: seconds, and when they were told
  let lookedAt = performance.now();
  let planned = null;
  let cursor = body.dataset.cursor || "";

  // --- the page --------------------------------------------------------------------------------------------------

  // As a document, not as text: nothing that a record holds is ever handed to a parser by this script.
  function look() {
    planned = null;
    lookedAt = performance.now();
    const request = new XMLHttpRequest();
    request.open("GET", location.pathname + location.search);
    request.responseType = "document";
    request.timeout = 20000;
    request.onload = () => {
      if (!request.response || request.status !== 200) return;
      if (follow === "reload") location.reload();
      for (const part of document.querySelectorAll("[data-live]")) {
        const made = request.response.getElementById(part.id);
        if (made) morph(part, made);
      }
      for (const made of request.response.querySelectorAll("[data-live]")) {
        if (!document.getElementById(made.id)) location.reload(); // a part that was not there before
      }
      say();
    };
    request.send();
  }

  function plan() {
    if (planned !== null) return;
    const pause = follow === "slow" ? SLOW_PAUSE : MIN_PAUSE;
    // At random, so that the browsers of a whole team do not come all at once.
    const wait = Math.max(Math.random() * 300, lookedAt + pause - performance.now());
    planned = setTimeout(look, wait);
  }

  // Make `old` what `made` is, keeping every node that can stay: with it stay focus, selection and scrolling.
  function morph(old, made) {
    if (old.isEqualNode(made)) return;
    for (const name of old.getAttributeNames()) if (!made.hasAttribute(name)) old.removeAttribute(name);
    for (const name of made.getAttributeNames()) {
      if (old.getAttribute(name) !== made.getAttribute(name)) old.setAttribute(name, made.getAttribute(name));
    }
    const keyed = new Map();
    for (const child of old.children) if (child.dataset && "key" in child.dataset) keyed.set(child.dataset.key, child);
    let place = old.firstChild;
    for (const child of [...made.childNodes]) {
      const key = child.dataset && "key" in child.dataset ? child.dataset.key : null;
      let match = key === null ? place : keyed.get(key);
      if (match && (match.nodeType !== child.nodeType || match.nodeName !== child.nodeName)) match = null;
      if (match && key === null && match.dataset && "key" in match.dataset) match = null;
      if (!match) {
        old.insertBefore(document.importNode(child, true), place);
        continue;
      }
      keyed.delete(key);
      if (match === place) place = place.nextSibling;
      else old.insertBefore(match, place);
      if (child.nodeType === Node.ELEMENT_NODE) morph(match, child);
      else if (match.nodeValue !== child.nodeValue) match.nodeValue = child.nodeValue;
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  }

  // For who does not see the page change: what it comes to, and only when that is something else.
  function say() {
    const found = document.querySelector("#jobs caption") || document.querySelector("#state .status");
    const text = found ? found.textContent.trim() : "";
    const said = document.getElementById("said");
    if (said.textContent !== text) said.textContent = text;
  }

  // --- the age of the data -----------------------------------------------------------------------------------------

  function human(seconds) {
    if (seconds < 2) return "just now";
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60]]) {
      if (seconds >= size) return Math.floor(seconds / size) + unit + " ago";
    }
    return Math.floor(seconds) + "s ago";
  }

  function tell() {
    if (age === null || age.seconds === null) return;
    const seconds = age.seconds + (performance.now() - age.at) / 1000;
    document.getElementById("age").textContent = "synced " + human(seconds) + (age.stale ? ", stale" : "");
  }

  function told(message) {
    const header = JSON.parse(message.data);
    age = { seconds: header.age_seconds, stale: header.stale, at: performance.now() };
    const fresh = document.getElementById("fresh");
    fresh.classList.toggle("stale", header.stale);
    let problem = fresh.querySelector(".problem");
    if (header.problem && !problem) {
      problem = document.createElement("span");
      problem.className = "problem";
      fresh.append(problem);
    }
    if (problem && header.problem) problem.textContent = "Last sync failed: " + header.problem;
    if (problem && !header.problem) problem.remove();
    tell();
  }

  // --- the events of a job -----------------------------------------------------------------------------------------

  function add(message) {
    cursor = message.lastEventId;
    const event = JSON.parse(message.data);
    if (body.dataset.show && event.kind !== body.dataset.show) return;
    const list = document.getElementById("events");
    const item = document.createElement("li");
    const parts = [["time", event.at], ["b", event.kind], ["span", event.text]];
    for (const [name, text] of parts) {
      const part = document.createElement(name);
      part.textContent = text;
      item.append(part, " ");
    }
    list.append(item);
    while (list.children.length > MAX_EVENTS) list.firstElementChild.remove();
    if (document.getElementById("follow").checked) list.scrollTop = list.scrollHeight;
  }

  // --- the stream ----------------------------------------------------------------------------------------------------

  function open() {
    if (source !== null || document.hidden) return;
    const query = new URLSearchParams();
    if (body.dataset.job) {
      query.set("job", body.dataset.job);
      query.set("after", cursor);
    }
    source = new EventSource("/live?" + query);
    source.addEventListener("change", (message) => {
      told(message);
      if (JSON.parse(message.data).number !== Number(document.getElementById("fresh").dataset.number)) plan();
    });
    source.addEventListener("age", told);
    source.addEventListener("event", add);
    source.addEventListener("reload", () => location.reload());
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
      close();
      setTimeout(open, RETRY);
    };
  }

  function close() {
    if (source !== null) source.close();
    source = null;
  }

  // A browser has six connections for all tabs of a site: one that nobody sees gives its own back.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  setInterval(tell, 5000);
  const events = document.getElementById("events");
  if (events) events.scrollTop = events.scrollHeight;
  open();
})();
