// Refreshes a page when the cache changes, counts the age of its data, and says if the server does not answer.
// Without this script, a page stays as it was opened.
"use strict";

(() => {
  const MIN_PAUSE = 4000; // milliseconds between two refreshes
  const SLOW_PAUSE = 60000; // the same for the charts, which read every job
  const TIMEOUT = 20000; // milliseconds until a request without an answer is lost
  const AT_END = 8; // pixels above the end of the events that still count as the end

  const body = document.body;
  const follow = body.dataset.follow;
  const events = document.getElementById("events"); // or the lines of the log, on its newest page
  const followed = document.getElementById("lines") || events;
  const isAbroad = new Date().getTimezoneOffset() !== 0; // from UTC, in which the server writes times

  let age = null; // of the data: in words and seconds, whether and when it is stale, and when that was received
  let rendered = null; // when the server rendered this page, by its clock, and when that was received
  let currentAt = moment(); // when the server last said that this page is current
  let loss = ""; // why this page is not kept current
  let refreshedAt = performance.now();
  let timer = null;
  let request = null; // for a refresh, until it ends
  let version = body.dataset.version; // names what this page shows

  function moment() {
    return { ticks: performance.now(), clock: Date.now() };
  }

  // One clock stops while the machine sleeps, the other one can be set back. So the longer time counts.
  function millisecondsSince(start) {
    return Math.max(performance.now() - start.ticks, Date.now() - start.clock);
  }

  // --- the page --------------------------------------------------------------------------------------------------

  // The response is a document, not text: this script never parses data of a record.
  function refresh() {
    clearTimeout(timer);
    timer = null;
    if (request !== null || isUnseen()) return; // one refresh follows the other
    refreshedAt = performance.now();
    request = new XMLHttpRequest();
    request.open("GET", location.pathname + location.search);
    if (version) request.setRequestHeader("If-None-Match", `"${version}"`);
    request.responseType = "document";
    request.timeout = TIMEOUT;
    request.onerror = request.ontimeout = () => lose("Connection lost");
    request.onload = () => show(request);
    request.onloadend = () => {
      request = null;
      scheduleRefresh();
    };
    request.send();
  }

  function show(answer) {
    if (answer.status === 304) { // only the time has changed
      const header = answer.getResponseHeader("Data-Age"); // a proxy may drop it
      if (header) onAge(JSON.parse(header));
      return confirmCurrent();
    }
    const fresh = answer.response;
    if (!fresh || !fresh.getElementById("fresh")) return lose("The server answers with an error, " + answer.status);
    if ((answer.status !== 200) !== (follow === "reload")) return location.reload();
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (other) morph(part, other);
    }
    version = fresh.body.dataset.version;
    if (document.title !== fresh.title) document.title = fresh.title;
    morph(document.getElementById("icon"), fresh.getElementById("icon"));
    for (const other of fresh.querySelectorAll("[data-live]")) {
      if (!document.getElementById(other.id)) location.reload(); // a new part
    }
    if (events) followEnd(fresh);
    readAge();
    readClock(fresh);
    confirmCurrent();
  }

  function confirmCurrent() {
    loss = "";
    currentAt = moment();
    announce();
    tick();
  }

  // A browser has six connections for all tabs of a site, and a hidden tab needs none, unless its user waits for a
  // notification.
  function isUnseen() {
    return document.hidden && !("watched" in body.dataset);
  }

  function scheduleRefresh() {
    if (request !== null || timer !== null || isUnseen()) return;
    const pause = follow === "slow" && !loss ? SLOW_PAUSE : MIN_PAUSE;
    // At random, so that the browsers of a team do not send their requests at the same time.
    const wait = Math.max(0, refreshedAt + pause - performance.now()) + Math.random() * 300;
    timer = setTimeout(refresh, wait);
  }

  // Make `old` equal to `fresh`, and keep every node that can stay, with its focus, selection and scroll position.
  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    for (const name of old.getAttributeNames()) {
      const isOpened = name === "open" && old.nodeName === "DETAILS"; // by the reader
      if (!fresh.hasAttribute(name) && !isOpened) old.removeAttribute(name);
    }
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
    const text = loss || (summary ? summary.textContent.trim() : "");
    const announcement = document.getElementById("announcement");
    if (announcement.textContent !== text) announcement.textContent = text;
  }

  // --- the age of the data -----------------------------------------------------------------------------------------

  function formatAge(seconds) {
    if (seconds > -60 && seconds < 2) return "just now";
    const [unit, size] = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]].find(([, size]) => Math.abs(seconds) >= size);
    const text = Math.floor(Math.abs(seconds) / size) + unit;
    return seconds < 0 ? "in " + text : text + " ago";
  }

  // As `human_duration` of mopsjobs/utils/times.py.
  function formatDuration(seconds) {
    const left = Math.max(0, Math.floor(seconds));
    if (left < 60) return left + "s";
    const [major, minor, units] =
      left < 3600 ? [left / 60, left % 60, "ms"]
      : left < 86400 ? [left / 3600, (left % 3600) / 60, "hm"]
      : [left / 86400, (left % 86400) / 3600, "dh"];
    const [whole, rest] = [Math.floor(major), Math.floor(minor)];
    return rest && whole < 100 ? `${whole}${units[0]} ${rest}${units[1]}` : `${whole}${units[0]}`;
  }

  function readClock(page) {
    const { now, sent } = page.getElementById("fresh").dataset;
    rendered = { now: Number(sent || now), at: moment() };
  }

  // Times with a title are shown as how long ago they were; those with `data-since`, as how long that has lasted.
  // The title, and times ahead, have the local time too.
  function showTimes() {
    const now = rendered.now * 1000 + millisecondsSince(rendered.at);
    for (const time of isAbroad ? document.querySelectorAll("time[data-local]") : []) {
      const text = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
      if (time.textContent !== text) time.textContent = text;
      time.title = time.dateTime;
    }
    for (const time of document.querySelectorAll("time[title]:not([data-local])")) {
      const text = formatAge((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
      if (time.title === time.dateTime && isAbroad) time.title += ", here " + new Date(time.dateTime).toLocaleString();
    }
    for (const time of document.querySelectorAll("time[data-clock]")) {
      const form = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
      const here = new Date(time.dateTime).toLocaleTimeString([], form);
      const text = isAbroad ? `(${here} here, ${time.dataset.clock})` : `(${time.dataset.clock})`;
      if (time.textContent !== text) time.textContent = text;
    }
    for (const time of document.querySelectorAll("time[data-since]")) {
      const text = formatDuration((now - Date.parse(time.dataset.since)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // Read the age that the server has put into the page.
  function readAge() {
    const { synced, ages, staleIn } = document.getElementById("age").dataset;
    const head = document.getElementById("fresh");
    const late = head.dataset.sent ? head.dataset.sent - head.dataset.now : 0; // it may have been rendered before
    const left = JSON.parse(staleIn);
    age = {
      synced,
      ages: JSON.parse(ages).map((each) => each + late),
      staleIn: left === null ? null : left - late,
      stale: head.classList.contains("stale"),
      at: moment(),
    };
  }

  // The server's words, with each age in them counted on.
  function showAge() {
    const seconds = millisecondsSince(age.at) / 1000;
    const ages = age.ages.map((each) => formatAge(each + seconds));
    const synced = age.synced.replace(/just now|\d+[smhd] ago/g, (words) => ages.shift() || words);
    const stale = age.stale || (age.staleIn !== null && seconds > age.staleIn);
    document.getElementById("fresh").classList.toggle("stale", stale);
    document.getElementById("age").textContent = synced + (stale ? ", stale" : "");
  }

  function onAge(header) {
    age = { synced: header.synced, ages: header.ages, staleIn: header.stale_in, stale: header.stale, at: moment() };
    const head = document.getElementById("fresh");
    let notice = head.querySelector(".problem");
    if (header.notice && !notice) {
      notice = document.createElement("span");
      notice.className = "problem";
      head.append(notice);
    }
    if (notice && header.notice) notice.textContent = header.notice;
    if (notice && !header.notice) notice.remove();
  }

  // --- the events of a job -----------------------------------------------------------------------------------------

  // Show the newest lines to a reader at the end; to others, only that there are some.
  function followEnd(fresh) {
    const next = fresh.getElementById("events");
    if (isAtEnd()) {
      morph(followed, fresh.getElementById(followed.id));
      scrollToEnd();
    } else if (!events.lastElementChild || !events.lastElementChild.isEqualNode(next.lastElementChild)) {
      document.getElementById("newest").hidden = false;
    }
  }

  function isAtEnd() {
    return events.scrollHeight - events.scrollTop - events.clientHeight <= AT_END;
  }

  function scrollToEnd() {
    events.scrollTop = events.scrollHeight;
  }

  // --- the connection ------------------------------------------------------------------------------------------------

  function lose(reason) {
    loss = reason;
    announce();
    tick();
  }

  // Show how old everything is, also if no answer comes.
  function tick() {
    showAge();
    showTimes();
    const notice = document.getElementById("connection");
    notice.hidden = !loss;
    const contact = formatAge(millisecondsSince(currentAt) / 1000);
    if (loss) notice.textContent = `${loss}. Last contact ${contact}; this page shows the state of then.`;
  }

  // --- keys --------------------------------------------------------------------------------------------------------

  function onKey(event) {
    const isTyping = event.target.closest("input, select, textarea, dialog");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !switched.checked) return;
    const search = document.getElementById("q");
    if (event.key === "/" && search) search.focus();
    else if (event.key === "j") moveFocus(1);
    else if (event.key === "k") moveFocus(-1);
    else if (event.key === "?") document.getElementById("keys").showModal();
    else return;
    event.preventDefault();
  }

  // Focus the link of the next or the previous job; without one in focus, the first or the last one.
  function moveFocus(step) {
    const links = [...document.querySelectorAll("#jobs th[scope=row] a, #groups th[scope=row] a")];
    const row = document.activeElement.closest("tr");
    const place = links.findIndex((link) => link.closest("tr") === row);
    const next = place < 0 ? (step > 0 ? 0 : links.length - 1) : place + step;
    if (links[next]) links[next].focus();
  }

  const switched = document.getElementById("keys-on");
  try {
    switched.checked = localStorage.getItem("keys") !== "off";
    switched.addEventListener("change", () => localStorage.setItem("keys", switched.checked ? "on" : "off"));
  } catch {
    // A browser that keeps nothing for this site forgets the choice with the page.
  }
  document.getElementById("show-keys").addEventListener("click", () => document.getElementById("keys").showModal());
  document.addEventListener("keydown", onKey);

  // Whose jobs are mine, if it is not the user of the server: a server behind a proxy does not know who asks.
  function showMine(link) {
    const owner = localStorage.getItem("mine");
    if (!owner) return;
    const query = new URLSearchParams(location.search);
    query.set("owner", owner);
    query.delete("page");
    link.href = `?${query}`;
    link.hidden = false;
  }

  const mine = document.getElementById("mine"), remember = document.getElementById("remember");
  try {
    if (mine) showMine(mine);
    if (remember) remember.addEventListener("click", () => {
      localStorage.setItem("mine", remember.dataset.owner);
      remember.textContent = "Remembered";
      showMine(mine);
    });
  } catch {
    // A browser that keeps nothing for this site has the address of a search to keep.
  }

  // The jobs that are ticked for a comparison stay so over a search, another page of jobs, and another order.
  function keepTicks(form) {
    const ticked = new Set(JSON.parse(sessionStorage.getItem("compared") || "[]"));
    const boxes = [...document.querySelectorAll("input[form=compare]")];
    for (const box of boxes) box.checked = box.checked || ticked.has(box.value);
    for (const value of ticked) {
      if (boxes.some((box) => box.value === value)) continue;
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", name: "job", value, checked: true });
      label.className = "check";
      label.append(box, value);
      form.prepend(label);
    }
    document.addEventListener("change", ({ target }) => {
      if (target.name !== "job") return;
      if (target.checked) ticked.add(target.value);
      else ticked.delete(target.value);
      sessionStorage.setItem("compared", JSON.stringify([...ticked]));
    });
  }

  const compare = document.getElementById("compare");
  try {
    if (compare) keepTicks(compare);
    else if (location.pathname === "/jobs") sessionStorage.removeItem("compared");
  } catch {
    // A browser that keeps nothing for this site forgets the ticks with the page.
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch { // without a secure origin, or refused
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Selected";
    }
  });

  readAge();
  readClock(document);
  setInterval(tick, 1000);
  if (!follow) return;
  document.addEventListener("visibilitychange", refresh);
  addEventListener("pageshow", (event) => event.persisted && refresh());
  addEventListener("offline", refresh); // tells whether the server is out of reach too
  addEventListener("online", refresh);
  if (events) {
    const newest = document.getElementById("newest");
    newest.addEventListener("click", () => {
      scrollToEnd();
      newest.hidden = true;
      version = ""; // the lines are in the whole page
      refresh();
    });
    events.addEventListener("scroll", () => (newest.hidden = newest.hidden || isAtEnd()));
    scrollToEnd();
  }
  scheduleRefresh();
})();
