let box = null, before = null, start = null;
const part = (name) => element.querySelector('.' + name);
const clamp = (value) => Math.min(Math.max(value, 0), 1);

function draw() {
  const image = part('picture'), frame = part('box'), value = props.value;
  if (!image || !frame) return;
  if (!value) { image.removeAttribute('src'); frame.classList.remove('drawn'); return; }
  if (image.getAttribute('src') !== value.src) image.setAttribute('src', value.src);
  frame.classList.toggle('drawn', !!box);
  if (!box) return;
  const [x, y, width, height] = box;
  frame.style.left = 100 * x / value.width + '%';
  frame.style.top = 100 * y / value.height + '%';
  frame.style.width = 100 * width / value.width + '%';
  frame.style.height = 100 * height / value.height + '%';
}

function place(event) {
  const area = part('picture').getBoundingClientRect();
  return [
    clamp((event.clientX - area.left) / area.width) * props.value.width,
    clamp((event.clientY - area.top) / area.height) * props.value.height,
  ];
}

function stretch(event) {
  const [x, y] = place(event);
  const left = Math.round(Math.min(x, start[0])), top = Math.round(Math.min(y, start[1]));
  box = [left, top, Math.round(Math.max(x, start[0])) - left, Math.round(Math.max(y, start[1])) - top];
  draw();
}

element.addEventListener('pointerdown', (event) => {
  if (event.button || !props.value || !event.target.closest('.sheet')) return;
  event.preventDefault();
  event.target.closest('.sheet').setPointerCapture(event.pointerId);
  before = box;
  start = place(event);
});
element.addEventListener('pointermove', (event) => { if (start) stretch(event); });
element.addEventListener('pointerup', (event) => {
  if (!start) return;
  stretch(event);
  start = null;
  if (box[2] < 3 || box[3] < 3) { box = before; draw(); return; }  // a click, no box
  trigger('drawn', { box });
});
element.addEventListener('pointercancel', () => { start = null; box = before; draw(); });
element.addEventListener('place', (event) => { if (!start) { box = event.detail; draw(); } });
watch('value', () => { box = (props.value && props.value.box) || null; draw(); });
draw();
