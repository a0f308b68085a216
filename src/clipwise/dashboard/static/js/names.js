// Long names, such as those of a sweep, cut so that they stay apart.

const BETWEEN = "_ ,;/("; // letters between the words of a name; "-" and "." are in numbers
const WORD = 16; // letters of a word that are kept whole
const CONTEXT = 6; // letters that are kept of a longer one

// Name to what is shown of it, at most so many letters: of long names what they do not have in common, and of
// that the beginning and the end; where that is the same for some, what comes from their first difference on.
export function shortNames(names, length) {
  const found = new Map();
  const [all, long] = [[...new Set(names)], []];
  for (const name of all) {
    if ([...name].length > length) long.push(name);
    else found.set(name, name);
  }
  const same = new Map();
  for (const [name, own] of without(long, long.length > 1 ? long : all)) same.set(middle(own, length), [...(same.get(middle(own, length)) ?? []), name]);
  for (const [short, group] of same) {
    const start = shared(group);
    for (const name of group) found.set(name, group.length > 1 ? middle(from([...name], start), length, true) : short);
  }
  return found;
}

// What each run is called beside others: shortened, with its number where two have the same name.
export function labels(runs, length) {
  const short = shortNames(runs.map((run) => run.name), length);
  const times = new Map();
  for (const run of runs) times.set(run.name, (times.get(run.name) ?? 0) + 1);
  return new Map(runs.map((run) => [run.id, times.get(run.name) > 1 ? `${short.get(run.name)} (${run.id})` : short.get(run.name)]));
}

// Names without the words that they and others begin and end with.
function without(names, others) {
  const start = others.length > 1 ? shared(others) : 0;
  const end = others.length > 1 ? shared(others.map((name) => [...name].reverse().join(""))) : 0;
  return names.map((name) => {
    const letters = [...name];
    const tail = letters.slice(letters.length - end);
    const word = tail.slice(0, WORD).findIndex((letter) => BETWEEN.includes(letter));
    const stop = word < 0 ? CONTEXT : word;
    const kept = end - stop < 2 ? letters : [...letters.slice(0, letters.length - end + stop), "…"];
    return [name, from(kept, start)];
  });
}

// From the word on in which a place is, or a little before it.
function from(letters, place) {
  let start = Math.min(place, letters.length - 1);
  while (start > 0 && place - start < WORD && !BETWEEN.includes(letters[start - 1])) start--;
  if (place - start >= WORD) start = place - CONTEXT;
  return start > 1 ? `…${letters.slice(start).join("")}` : letters.join("");
}

// At most so many letters of a text: its beginning and its end, or its beginning alone.
function middle(text, length, end = false) {
  const letters = [...text];
  if (letters.length <= length) return text;
  const head = end ? length - 1 : Math.floor((length - 1) / 2);
  return `${letters.slice(0, head).join("")}…${letters.slice(letters.length - (length - 1 - head)).join("")}`;
}

// How many letters all of them begin with.
function shared(names) {
  const [first, ...others] = names.map((name) => [...name]);
  let at = 0;
  while (at < first.length && others.every((one) => one[at] === first[at])) at++;
  return at;
}
