let label = '', marks = new Map(), hint = '';
const answers = (of) => marks.get(of) || new Map();
const count = (of, yes) => [...answers(of).values()].filter((each) => each === yes).length;

function paint() {
  for (const button of grid.children) show(button, answers(label).get(button.dataset.name));
  tell();
}
function tell() {
  const field = part('.what input'), total = grid.children.length;
  if (field !== document.activeElement || field.value.trim() === '') field.value = label;
  part('.others').disabled = !label || !total;
  part('.count').textContent = hint || (label && total
    ? `“${label}”: ${count(label, true)} ✓ yes, ${count(label, false)} ✗ no, of ${total} pictures` : '');
  const names = [...new Set([...marks.keys(), ...(label ? [label] : [])])].sort();
  part('.classes').replaceChildren(...(names.length < 2 ? [] : names.map((name) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = name;
    button.dataset.label = name;
    button.setAttribute('aria-pressed', String(name === label));
    return button;
  })));
  const found = document.querySelector('.mimax-found .board');
  if (found && found.paint) found.paint();
}
function send() {
  const only = (of, yes) => [...of].filter(([, each]) => each === yes).map(([name]) => name);
  const all = [...marks].filter(([, of]) => of.size);
  props.value = {
    label, marks: all.map(([name, of]) => ({ label: name, yes: only(of, true), no: only(of, false) })),
    of: (props.value || {}).of || '',
  };
}
function turn(of, name) {
  if (!of) {
    hint = 'Name what you look for first.';
    tell();
    part('.what input').focus();
    return;
  }
  if (!marks.has(of)) marks.set(of, new Map());
  const known = marks.get(of), yes = known.get(name);
  if (yes === undefined) known.set(name, true); else if (yes) known.set(name, false); else known.delete(name);
  if (of === label) {
    for (const button of grid.children) if (button.dataset.name === name) show(button, known.get(name));
  }
  tell();
  send();
}
function look(name) {
  const field = part('.what input');
  label = name.split(/\s+/).filter(Boolean).join(' ');
  hint = '';
  field.value = label;
  paint();
  send();
  trigger('looked');
}
function load() {
  const value = props.value || {};
  label = value.label || '';
  hint = '';
  marks = new Map((value.marks || []).map(({ label: name, yes, no }) =>
    [name, new Map([...yes.map((file) => [file, true]), ...no.map((file) => [file, false])])]));
  part('.what input').value = label;
  paint();
}
function build() {
  const number = (index) => String(index).padStart(4, '0');
  const files = props.names || [];
  grid.replaceChildren(...files.map((name, index) => tile(name, `${props.folder}/${number(index)}.jpg`)));
  grid.scrollTop = 0;
  load();
}
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.matches('.tile')) turn(label, button.dataset.name);
  if (button.dataset.label !== undefined) look(button.dataset.label);
  if (button.matches('.others')) {
    if (!marks.has(label)) marks.set(label, new Map());
    const known = marks.get(label);
    for (const { dataset } of grid.children) if (!known.has(dataset.name)) known.set(dataset.name, false);
    paint();
    send();
  }
});
element.addEventListener('change', (event) => { if (event.target.matches('.what input')) look(event.target.value); });
board.turn = turn;
board.answer = (of, name) => answers(of).get(name);
watch(['names', 'folder'], build);
watch('value', load);
build();
