// What gradio leaves out of its pages: names of thumbnails, lines that are read aloud, whose turn it is, and what a
// picture looks like that browsers do not show.
(() => {
  if (window.artmodelsPage) return; // gradio adds it twice
  window.artmodelsPage = true;
  const all = (what) => document.querySelectorAll(what);
  const stem = (address) => decodeURIComponent(address.split('/').pop()).replace(/\.\w+$/, '');

  // gradio's "queue: 2/3 | 1.2/8.0s" in words; the seconds are those of the runs before, where there were any.
  function turn(text) {
    const place = /queue: (\d+)\//.exec(text), time = /([\d.]+)\/([\d.]+)s/.exec(text);
    if (!place) return '';
    const left = time ? Math.max(1, Math.ceil(time[2] - time[1])) : 0;
    return `${place[1]} before you${left ? `, about ${left} second${left > 1 ? 's' : ''}` : ''}: waiting for the machine…`;
  }
  function mend() {
    for (const button of all('.gallery-item:not([aria-label])')) {
      const names = [...button.querySelectorAll('img')].map((image) => stem(image.src)).join(' and ');
      if (!names) continue;
      button.setAttribute('aria-label', `Example: ${names}`);
      button.title = names;
    }
    for (const line of all('.prose.status:not([aria-live])')) {
      line.setAttribute('role', 'status');
      line.setAttribute('aria-live', 'polite');
    }
    for (const place of all('.empty[aria-label]:not([role])')) {
      place.setAttribute('role', 'img');
      place.setAttribute('aria-label', 'Nothing yet');
    }
    for (const block of all('.block.status')) {
      const words = turn((block.querySelector('.progress-text') || {}).textContent || '');
      const said = words ? JSON.stringify(words) : '';
      if (block.style.getPropertyValue('--turn') !== said) block.style.setProperty('--turn', said);
    }
    // The address of the page becomes that of its newest result: reload and back bring it again.
    for (const link of all('a.permalink:not([data-seen])')) {
      link.dataset.seen = 'yes';
      link.href = location.pathname + new URL(link.href).search; // gradio's own base is the first page
      history.replaceState(history.state, '', link.href);
    }
    const here = document.querySelector('.nav-holder a.active');
    if (here && !here.dataset.shown) {
      here.dataset.shown = 'yes';
      here.setAttribute('aria-current', 'page');
      here.scrollIntoView({ inline: 'center', block: 'nearest' });
    }
  }
  // The control keeps the file as it came: only what is seen is another. This event does not bubble, hence `true`.
  document.addEventListener('error', ({ target }) => {
    const file = target instanceof HTMLImageElement && /\/gradio_api\/file=([^?#]+)/.exec(target.src);
    if (file) target.src = `preview?file=${encodeURIComponent(decodeURIComponent(file[1]))}`;
  }, true);
  let asked = false;
  new MutationObserver(() => {
    if (asked) return;
    asked = true;
    setTimeout(() => { asked = false; mend(); }, 100);
  }).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
})();
