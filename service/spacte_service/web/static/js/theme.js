// Before the page is drawn, so that it does not flash: the theme that was chosen here before.

const kept = localStorage.getItem("spacte-theme");
if (kept) document.documentElement.dataset.theme = kept;
