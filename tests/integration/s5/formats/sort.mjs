// Reads a list of names and answers it in the order of localeCompare. Run by test_javascript.py.
const names = JSON.parse(await new Promise((done) => {
  let text = ''
  process.stdin.on('data', (piece) => { text += piece })
  process.stdin.on('end', () => done(text))
}))
process.stdout.write(JSON.stringify(names.sort((a, b) => a.localeCompare(b, 'en-US'))))
