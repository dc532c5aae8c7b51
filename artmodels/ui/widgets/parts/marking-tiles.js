const part = (name) => element.querySelector(name);
const board = part('.board'), grid = part('.grid');
const WORDS = { true: '✓ yes', false: '✗ no', undefined: '?' };
const SPOKEN = { true: 'yes', false: 'no', undefined: 'unknown' };
const address = (file) => {
  const config = window.gradio_config || {};
  return (config.root || '') + (config.api_prefix || '/gradio_api') + '/file=' + encodeURI(file);
};
function tile(name, file, text) {
  const button = document.createElement('button'), image = document.createElement('img');
  const mark = document.createElement('span');
  button.type = 'button';
  button.className = 'tile';
  button.dataset.name = name;
  image.loading = 'lazy';
  image.decoding = 'async';
  image.alt = '';
  image.src = address(file);
  mark.className = 'mark';
  button.append(image, mark);
  if (text) {
    const caption = document.createElement('span');
    caption.className = 'text';
    caption.textContent = text;
    button.append(caption);
  }
  return button;
}
function show(button, yes) {
  button.setAttribute('aria-pressed', yes === undefined ? 'mixed' : String(yes));
  button.setAttribute('aria-label', button.dataset.name + ': ' + SPOKEN[yes]);
  button.title = button.dataset.name;
  button.querySelector('.mark').textContent = WORDS[yes];
}
