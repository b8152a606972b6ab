// Clients from the npm registry, unmodified: tools.mjs FOLDER CLIENT PORT PASSWORD [CA]. What they found is printed.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const [folder, client, port, password, ca] = process.argv.slice(2);
const load = createRequire(`${folder}/`);
const url = `http://127.0.0.1:${port}/axis-cgi/param.cgi?action=list&group=Serial.Ser1.BaudRate,Serial.Ser1.DataBits`;
const login = { username: 'admin', password };

const clients = {
  request: () => new Promise((done) => {
    load('request')(url, { auth: { user: 'admin', pass: password, sendImmediately: false } }, (_, __, body) => done(body));
  }),
  needle: async () => (await load('needle')('get', url, { ...login, auth: 'digest' })).body.toString(),
  'digest-fetch': async () => {
    const { default: DigestClient } = await import(load.resolve('digest-fetch'));
    return (await new DigestClient('admin', password).fetch(url)).text();
  },
  https: () => new Promise((done) => {
    const options = { ca: readFileSync(ca), auth: `admin:${password}`, agent: false };
    load('node:https').get(url.replace('http:', 'https:'), options, (answer) => answer.on('data', (body) => done(`${body}`)));
  }),
  ws: () => new Promise((done) => {
    const WebSocket = load('ws');
    const basic = Buffer.from(`admin:${password}`).toString('base64');
    const headers = { Authorization: `Basic ${basic}` };
    const page = new WebSocket(`ws://127.0.0.1:${port}/daisyport/ports/P0`, ['wsSerial', 'binary'], { headers });
    const heard = [];
    page.on('open', () => page.send(Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))));
    page.on('message', (data, binary) => {
      heard.push(binary ? data : Buffer.from('text'));
      const all = Buffer.concat(heard);
      if (all.length >= 256) { page.close(); done(`${page.protocol} ${all.toString('hex')}`); }
    });
  }),
};
process.stdout.write(await clients[client]());
