// Reads a list of hex strings, decodes each as CBOR, writes it anew in the deterministic form of
// RFC 8949, and answers the list of what it wrote. Run by test_javascript.py.
import { decode, encode, rfc8949EncodeOptions } from 'cborg'

const vectors = JSON.parse(await new Promise((done) => {
  let text = ''
  process.stdin.on('data', (piece) => { text += piece })
  process.stdin.on('end', () => done(text))
}))
const options = { useMaps: true, strict: true, allowIndefinite: false, rejectDuplicateMapKeys: true }
process.stdout.write(JSON.stringify(vectors.map((hex) => {
  const value = decode(Buffer.from(hex, 'hex'), options)
  return Buffer.from(encode(value, rfc8949EncodeOptions)).toString('hex')
})))
