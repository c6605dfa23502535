// Notifies of the end of a job whose page is open, if the user has asked for that by a click on its button.
// The browser asks for permission then, and not before. The name of the job and its status are text.
"use strict";

(() => {
  const body = document.body;
  const state = document.getElementById("state");
  if (!body.dataset.job || !state || !("Notification" in window)) return; // also without a secure origin

  const isActive = () => "active" in state.dataset;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "notify";
  if (isActive()) (document.querySelector("p.title") || document.querySelector("h1")).after(button);

  function show() {
    const isWatched = "watched" in body.dataset;
    button.setAttribute("aria-pressed", String(isWatched));
    button.textContent = isWatched ? "You will be notified when this job ends" : "Notify me when this job ends";
  }

  async function toggle() {
    if ("watched" in body.dataset) {
      delete body.dataset.watched;
    } else if ((await Notification.requestPermission()) === "granted") {
      body.dataset.watched = ""; // live.js then also asks while the tab is hidden
    } else {
      button.disabled = true;
      button.textContent = "This browser does not allow notifications for this page";
      return;
    }
    show();
  }

  button.addEventListener("click", toggle);
  show();
  new MutationObserver(() => {
    if (isActive()) return;
    if ("watched" in body.dataset) {
      const status = state.querySelector(".status").textContent.trim();
      new Notification(`${body.dataset.job}: ${status}`, { tag: `mops-jobs ${body.dataset.job}` });
      delete body.dataset.watched;
    }
    button.remove();
  }).observe(state, { attributes: true, childList: true, subtree: true, characterData: true });
})();
