// Refreshes a page when the cache changes, counts the age of its data, and says if the server does not answer.
// Without this script, a page stays as it was opened.
"use strict";

(() => {
  const MIN_PAUSE = 4000; // milliseconds between two refreshes
  const SLOW_PAUSE = 60000; // the same for the charts, which read every job
  const RETRY = 30000; // milliseconds until a refused stream is requested again, and the page is refreshed without it
  const SILENCE = 40000; // milliseconds without a message until the connection is lost; one comes every 15 seconds
  const MAX_EVENTS = 2000; // lines kept on the page of a job
  const AT_END = 8; // pixels above the end of the events that still count as the end

  const body = document.body;
  const follow = body.dataset.follow;
  const events = document.getElementById("events"); // or the lines of the log, on its newest page
  const followed = document.getElementById("lines") || events;
  const isAbroad = new Date().getTimezoneOffset() !== 0; // from UTC, in which the server writes times

  let source = null;
  let age = null; // of the data: in words and seconds, whether and when it is stale, and when that was received
  let rendered = null; // when the server rendered this page, by its clock, and when that was received
  let heardAt = moment(); // when the stream was opened, or brought its last message
  let currentAt = moment(); // when the server last said that this page is current
  let loss = ""; // why this page is not kept current
  let refreshedAt = performance.now();
  let timer = null;
  let request = null; // for a refresh, until it ends
  let isDue = false; // whether another refresh has to follow it
  let cursor = body.dataset.cursor || "";
  let version = body.dataset.version; // names what this page shows
  let shown = Number(document.getElementById("fresh").dataset.number); // the last change that this page shows
  let latest = shown; // the last change that the stream told of

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
    if (request !== null) request.abort();
    clearTimeout(timer);
    timer = null;
    isDue = false;
    refreshedAt = performance.now();
    const asked = latest;
    request = new XMLHttpRequest();
    request.open("GET", location.pathname + location.search);
    // With a stream, which brings the age of the data, the server may answer with the parts that have changed.
    if (source !== null && version) request.setRequestHeader("If-None-Match", `"${version}"`);
    request.responseType = "document";
    request.timeout = 20000;
    request.onerror = request.ontimeout = () => lose("Connection lost");
    request.onload = () => {
      if (request.status === 304) {
        version = (request.getResponseHeader("ETag") || "").replace(/^W\/|"/g, ""); // only the time has changed
        return confirmCurrent(asked);
      }
      const fresh = request.response;
      if (!fresh || !fresh.getElementById("fresh")) return lose("The server answers with an error, " + request.status);
      const isError = request.status !== 200;
      if (isError !== (follow === "reload")) return location.reload();
      const isPartial = "base" in fresh.body.dataset;
      if (isPartial && fresh.body.dataset.base !== version) return refreshWhole();
      version = ""; // until all is done
      for (const part of document.querySelectorAll("[data-live]")) {
        const other = fresh.getElementById(part.id);
        if (!other || (part.id === "fresh" && (isPartial || source !== null))) continue; // messages bring the age
        if (!morph(part, other)) return refreshWhole();
      }
      version = fresh.body.dataset.version;
      if (document.title !== fresh.title) document.title = fresh.title;
      for (const other of fresh.querySelectorAll("[data-live]")) {
        if (!document.getElementById(other.id)) location.reload(); // a new part
      }
      // Without a stream that brings the new events. Lines of the log come from the page only.
      if ((source === null || !body.dataset.job) && !isPartial && events) followEnd(fresh);
      if (source === null && !isPartial) readAge();
      readClock(fresh);
      confirmCurrent(asked);
    };
    request.onloadend = () => {
      request = null;
      if (isDue) scheduleRefresh();
    };
    request.send();
  }

  // Note that this page shows the change `number`, and look again if the stream has told of a later one meanwhile.
  function confirmCurrent(number) {
    loss = "";
    currentAt = moment();
    shown = number;
    if (latest !== shown) scheduleRefresh();
    announce();
    tick();
  }

  // The page has not what the server compared with: get all of it.
  function refreshWhole() {
    version = "";
    scheduleRefresh();
  }

  // One refresh follows the other: two at once would ask with the same version, and the second response would not fit
  // the page any more. Also, a page whose responses are slow would never show one.
  function scheduleRefresh() {
    isDue = request !== null;
    if (isDue || timer !== null) return;
    const pause = follow === "slow" && !loss ? SLOW_PAUSE : MIN_PAUSE;
    // At random, so that the browsers of a team do not send their requests at the same time.
    const wait = Math.max(Math.random() * 300, refreshedAt + pause - performance.now());
    timer = setTimeout(refresh, wait);
  }

  // Make `old` equal to `fresh`, and keep every node that can stay, with its focus, selection and scroll position.
  // A mark in `fresh` stands for nodes that stay as they are. Return false if `old` lacks one of them.
  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return true;
    for (const name of old.getAttributeNames()) {
      const isOpened = name === "open" && old.nodeName === "DETAILS"; // by the reader
      if (!fresh.hasAttribute(name) && !isOpened) old.removeAttribute(name);
    }
    for (const name of fresh.getAttributeNames()) {
      if (old.getAttribute(name) !== fresh.getAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
    }
    const keyed = new Map();
    for (const child of old.children) if (child.dataset && "key" in child.dataset) keyed.set(child.dataset.key, child);
    const order = [...keyed.values()];
    let place = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      if (child.dataset && "same" in child.dataset) {
        const first = order.indexOf(keyed.get(child.dataset.same));
        const same = order.slice(first, first + Number(child.dataset.count));
        if (first < 0 || same.length !== Number(child.dataset.count)) return false;
        for (const node of same) {
          keyed.delete(node.dataset.key);
          while (place && place !== node && place.nodeType === Node.TEXT_NODE) place = place.nextSibling;
          if (node === place) place = place.nextSibling;
          else old.insertBefore(node, place);
        }
        continue;
      }
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
      if (child.nodeType === Node.ELEMENT_NODE) {
        if (!morph(match, child)) return false;
      } else if (match.nodeValue !== child.nodeValue) match.nodeValue = child.nodeValue;
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
    return true;
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
    for (const time of document.querySelectorAll("time[title]")) {
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

  // A message has a header if that differs from the one before by more than the time.
  function onMessage(message) {
    const data = JSON.parse(message.data);
    if ("number" in data) latest = data.number;
    if ("synced" in data) onHeader(data);
    heardAt = moment();
    if (loss) scheduleRefresh();
    else currentAt = moment();
    tick();
  }

  function onHeader(header) {
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

  function onEvent(message) {
    cursor = message.lastEventId;
    const event = JSON.parse(message.data);
    if (body.dataset.show && event.kind !== body.dataset.show) return;
    const wasAtEnd = isAtEnd();
    const item = document.createElement("li");
    const parts = [["time", event.at], ["b", event.kind], ["span", event.text]];
    for (const [name, text] of parts) {
      const part = document.createElement(name);
      part.textContent = text;
      item.append(part, " ");
    }
    events.append(item);
    while (events.children.length > MAX_EVENTS) events.firstElementChild.remove();
    if (wasAtEnd) scrollToEnd();
    else document.getElementById("newest").hidden = false;
  }

  // Show the newest lines to a reader at the end; to others, only that there are some.
  function followEnd(fresh) {
    if (isAtEnd()) {
      morph(followed, fresh.getElementById(followed.id));
      cursor = fresh.body.dataset.cursor;
      scrollToEnd();
    } else if (!body.dataset.job) {
      const [last, next] = [events, fresh.getElementById("events")].map((list) => list.lastElementChild);
      if (!last.isEqualNode(next)) document.getElementById("newest").hidden = false;
    }
  }

  function isAtEnd() {
    return events.scrollHeight - events.scrollTop - events.clientHeight <= AT_END;
  }

  function scrollToEnd() {
    events.scrollTop = events.scrollHeight;
  }

  // --- the stream ----------------------------------------------------------------------------------------------------

  function open() {
    if (source !== null || (document.hidden && !("watched" in body.dataset))) return;
    const query = new URLSearchParams();
    if (body.dataset.job) {
      query.set("job", body.dataset.job);
      query.set("after", cursor);
    }
    heardAt = moment();
    source = new EventSource("/live?" + query);
    source.addEventListener("change", (message) => {
      onMessage(message);
      if (latest !== shown) scheduleRefresh();
    });
    source.addEventListener("age", (message) => {
      onMessage(message);
      scheduleRefresh(); // the page shows how long ago things were
    });
    source.addEventListener("event", onEvent);
    source.addEventListener("reload", () => location.reload());
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return lose("Connection lost"); // the browser reconnects
      close();
      scheduleRefresh(); // tells whether only the stream is refused
      setTimeout(open, RETRY);
    };
  }

  function close() {
    if (source !== null) source.close();
    source = null;
  }

  function lose(reason) {
    if (!loss && request !== null) request.abort(); // its connection may be dead; those that follow are waited for
    loss = reason;
    clearTimeout(timer);
    timer = null;
    isDue = false;
    announce();
    tick();
  }

  // Show how old everything is, also if no message comes.
  function tick() {
    showAge();
    showTimes();
    if (source !== null && millisecondsSince(heardAt) > SILENCE) {
      close();
      open();
      lose("Connection lost");
      return;
    }
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

  // Here, and not by an address: a link on another site must not change whose jobs are mine.
  const remember = document.getElementById("remember");
  if (remember) {
    remember.addEventListener("click", () => {
      const owner = encodeURIComponent(remember.dataset.owner);
      document.cookie = `mops_jobs_mine=${owner}; path=/jobs; max-age=31536000; samesite=strict`;
      remember.textContent = "Remembered";
    });
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
  // A browser has six connections for all tabs of a site, so a hidden tab closes its own.
  // Not if its user waits for a notification.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) open();
    else if (!("watched" in body.dataset)) close();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  addEventListener("offline", refresh); // tells whether the server is out of reach too
  addEventListener("online", refresh);
  if (events) {
    const newest = document.getElementById("newest");
    newest.addEventListener("click", () => {
      scrollToEnd();
      newest.hidden = true;
      if (!body.dataset.job) refreshWhole();
    });
    events.addEventListener("scroll", () => (newest.hidden = newest.hidden || isAtEnd()));
    scrollToEnd();
  }
  open();
})();
