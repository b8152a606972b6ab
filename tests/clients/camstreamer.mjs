// CamStreamer's client of Axis products (npm camstreamerlib 1.2.3), unmodified: camstreamer.mjs FOLDER PORT PASSWORD,
// where FOLDER holds its node_modules. What it found is printed as JSON.
import { createRequire } from 'node:module';

const [folder, port, password] = process.argv.slice(2);
const CameraVapix = createRequire(`${folder}/`)('camstreamerlib/CameraVapix');
const serial = '/axis-cgi/com/serial.cgi';
const discovery = JSON.stringify({ apiVersion: '1.0', context: 'x', method: 'getApiList' });

// The library changes the options that it is given, so each request has a camera of its own.
const camera = () => new CameraVapix({ ip: '127.0.0.1', port, auth: `admin:${password}` });

const found = {
  apis: JSON.parse(await camera().vapixPost('/axis-cgi/apidiscovery.cgi', discovery, 'application/json')).data.apiList
    .map((api) => api.id),
  // One group a call: it encodes a comma twice, so that a list of several reaches no product as one.
  cameras: await camera().getParameterGroup('PTZ.CamPorts'),
  baudRate: await camera().getParameterGroup('Serial.Ser1.BaudRate'),
  update: await camera().setParameter({ 'root.Serial.Ser1.StopBits': 2 }),
  exchange: await camera().vapixGet(`${serial}?write=51&read=2&wait=9`),
  refused: await camera().setParameter({ 'root.Serial.Ser1.BaudRate': 12345 }),
};
console.log(JSON.stringify(found));
