let opacity = 50, flicker = false;
const part = (name) => element.querySelector(name);
function draw() {
  const value = props.value;
  if (!part('.over')) return;
  for (const name of ['under', 'over']) {
    const image = part('.' + name);
    if (value && value[name]) image.setAttribute('src', value[name]); else image.removeAttribute('src');
  }
  part('.over').style.opacity = opacity / 100;
  part('.stack').classList.toggle('by-turns', flicker);
  part('.opacity').value = opacity;
  part('.opacity').disabled = flicker;
  part('.flicker').checked = flicker;
  part('output').textContent = opacity + ' %';
}
element.addEventListener('input', (event) => {
  if (event.target.matches('.opacity')) opacity = event.target.value;
  if (event.target.matches('.flicker')) flicker = event.target.checked;
  draw();
});
watch('value', draw);
draw();
