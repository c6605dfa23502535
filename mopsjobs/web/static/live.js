// Refreshes a page when the cache changes. Without this script or without a stream, a page stays as it was opened.
"use strict";

(() => {
  const MIN_PAUSE = 2000; // milliseconds between two refreshes
  const SLOW_PAUSE = 60000; // the same for the charts, which read every job
  const RETRY = 30000; // milliseconds until a refused stream is requested again
  const MAX_EVENTS = 2000; // lines kept on the page of a job

  const body = document.body;
  const follow = body.dataset.follow;
  if (!follow) return;

  let source = null;
  let age = null; // of the data: seconds, and when they were received
  let refreshedAt = performance.now();
  let timer = null;
  let cursor = body.dataset.cursor || "";

  // --- the page --------------------------------------------------------------------------------------------------

  // The response is a document, not text: this script never parses data of a record.
  function refresh() {
    timer = null;
    refreshedAt = performance.now();
    const request = new XMLHttpRequest();
    request.open("GET", location.pathname + location.search);
    request.responseType = "document";
    request.timeout = 20000;
    request.onload = () => {
      if (!request.response || request.status !== 200) return;
      if (follow === "reload") location.reload();
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = request.response.getElementById(part.id);
        if (fresh) morph(part, fresh);
      }
      for (const fresh of request.response.querySelectorAll("[data-live]")) {
        if (!document.getElementById(fresh.id)) location.reload(); // a new part
      }
      announce();
    };
    request.send();
  }

  function scheduleRefresh() {
    if (timer !== null) return;
    const pause = follow === "slow" ? SLOW_PAUSE : MIN_PAUSE;
    // At random, so that the browsers of a team do not send their requests at the same time.
    const wait = Math.max(Math.random() * 300, refreshedAt + pause - performance.now());
    timer = setTimeout(refresh, wait);
  }

  // Make `old` equal to `fresh`, and keep every node that can stay, with its focus, selection and scroll position.
  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const name of fresh.getAttributeNames()) {
      if (old.getAttribute(name) !== fresh.getAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
    }
    const keyed = new Map();
    for (const child of old.children) if (child.dataset && "key" in child.dataset) keyed.set(child.dataset.key, child);
    let place = old.firstChild;
    for (const child of [...fresh.childNodes]) {
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

  // Announce the new total or status to screen readers, if it has changed.
  function announce() {
    const summary = document.querySelector("#jobs caption") || document.querySelector("#state .status");
    const text = summary ? summary.textContent.trim() : "";
    const announcement = document.getElementById("announcement");
    if (announcement.textContent !== text) announcement.textContent = text;
  }

  // --- the age of the data -----------------------------------------------------------------------------------------

  function formatAge(seconds) {
    if (seconds < 2) return "just now";
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60]]) {
      if (seconds >= size) return Math.floor(seconds / size) + unit + " ago";
    }
    return Math.floor(seconds) + "s ago";
  }

  function showAge() {
    if (age === null || age.seconds === null) return;
    const seconds = age.seconds + (performance.now() - age.at) / 1000;
    document.getElementById("age").textContent = "synced " + formatAge(seconds) + (age.stale ? ", stale" : "");
  }

  function onHeader(message) {
    const header = JSON.parse(message.data);
    age = { seconds: header.age_seconds, stale: header.stale, at: performance.now() };
    const head = document.getElementById("fresh");
    head.classList.toggle("stale", header.stale);
    let problem = head.querySelector(".problem");
    if (header.problem && !problem) {
      problem = document.createElement("span");
      problem.className = "problem";
      head.append(problem);
    }
    if (problem && header.problem) problem.textContent = "Last sync failed: " + header.problem;
    if (problem && !header.problem) problem.remove();
    showAge();
  }

  // --- the events of a job -----------------------------------------------------------------------------------------

  function onEvent(message) {
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
      onHeader(message);
      if (JSON.parse(message.data).number !== Number(document.getElementById("fresh").dataset.number)) scheduleRefresh();
    });
    source.addEventListener("age", onHeader);
    source.addEventListener("event", onEvent);
    source.addEventListener("reload", () => location.reload());
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return; // the browser reconnects
      close();
      setTimeout(open, RETRY);
    };
  }

  function close() {
    if (source !== null) source.close();
    source = null;
  }

  // A browser has six connections for all tabs of a site, so a hidden tab closes its own.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  setInterval(showAge, 5000);
  const events = document.getElementById("events");
  if (events) events.scrollTop = events.scrollHeight;
  open();
})();
