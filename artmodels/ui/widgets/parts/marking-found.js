const wall = () => document.querySelector('.mimax-wall .board');
const label = () => (props.value && props.value.label) || '';
board.paint = () => {
  const marks = wall();
  for (const button of grid.children) show(button, marks && marks.answer && marks.answer(label(), button.dataset.name));
};
function build() {
  const tiles = (props.value && props.value.tiles) || [];
  grid.replaceChildren(...tiles.map(({ name, file, score }) => tile(name, file, `${score.toFixed(2)}  ${name}`)));
  part('.count').textContent = tiles.length ? `“${label()}”, best first; click to change a mark` : '';
  board.paint();
}
element.addEventListener('click', (event) => {
  const button = event.target.closest('.tile');
  if (button) wall().turn(label(), button.dataset.name);
});
watch('value', build);
build();
