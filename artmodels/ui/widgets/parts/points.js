function draw() {
  const value = props.value;
  for (const name of ['target', 'source']) {
    const sheet = element.querySelector('.' + name);
    if (!sheet) return;
    const picture = sheet.querySelector('.picture');
    if (!value || !value[name]) picture.removeAttribute('src');
    else if (picture.getAttribute('src') !== value[name]) picture.setAttribute('src', value[name]);
    sheet.querySelectorAll('.mark').forEach((mark) => mark.remove());
    (value && value[name] ? props.marks || [] : []).forEach((point, index) => {
      if (name === 'source' && !point.inside) return;
      const mark = document.createElement('span'), [width, height] = value[name + '_size'];
      mark.className = 'mark' + (point.sure ? '' : ' unsure');
      mark.textContent = index + 1;
      mark.style.left = 100 * point[name][0] / width + '%';
      mark.style.top = 100 * point[name][1] / height + '%';
      sheet.append(mark);
    });
  }
}
element.addEventListener('click', (event) => {
  const sheet = event.target.closest('.sheet.target');
  if (!sheet || !props.value || !props.value.target) return;
  const area = sheet.querySelector('.picture').getBoundingClientRect();
  const share = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
  const [x, y] = share.map((each, axis) => Math.min(Math.max(each, 0), 1) * props.value.target_size[axis]);
  trigger('picked', { x, y });
});
watch(['value', 'marks'], draw);
draw();
