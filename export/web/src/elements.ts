/** The parts of `index.html`, by their names. */

export function element<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

export function button(text: string, action: () => void): HTMLButtonElement {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  made.addEventListener('click', action);
  element('controls').append(made);
  return made;
}

export function notice(text: string): void {
  const line = element('notice');
  line.textContent = text;
  line.hidden = text === '';
}

export function say(text: string): void {
  element('spoken').textContent = text;
}
