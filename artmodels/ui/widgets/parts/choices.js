element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) trigger('chosen', { index: button.dataset.index });
});
