// dcmjs-dimse as a sender: the job of tests/senders/stacks.py on stdin, a JSON line for each file on stdout.
// One association; the files that are left after an abort get no line. The argument is the folder with node_modules.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import tls from 'node:tls';

const { association, Client, log, requests } = createRequire(`${process.argv[2]}/`)('dcmjs-dimse');
log.disableAll?.();

// the library offers no option for it: a modality in the field knows the gateway's address, not its name
tls.checkServerIdentity = () => undefined;

const job = JSON.parse(readFileSync(0, 'utf8'));
const waiting = new Map();
const report = (file, outcome) => {
  if (waiting.delete(file)) console.log(JSON.stringify([file, outcome]));
};
const reportAll = (outcome) => [...waiting.keys()].forEach((file) => report(file, outcome));
const client = new Client();
let accepted = false;

for (const file of job.files) {
  waiting.set(file, undefined);
  try {
    const request = new requests.CStoreRequest(file);
    if (!request.getAffectedSopClassUid() || !request.getAffectedSopInstanceUid()) throw new Error('no UIDs');
    request.on('response', (response) =>
      report(file, `0x${response.getStatus().toString(16).toUpperCase().padStart(4, '0')}`)
    );
    request.on('done', () => report(file, 'not sent')); // without a response: it could not be encoded
    client.addRequest(request);
    waiting.set(file, request);
  } catch {
    report(file, 'not sent');
  }
}
// the library itself proposes Implicit and Explicit VR Little Endian together, so that the peer may choose
for (const [sopClass, syntax] of job.contexts.filter((pair) => pair[1] === '1.2.840.10008.1.2.1')) {
  client.addAdditionalPresentationContext(new association.PresentationContext(0, sopClass, syntax), true);
}
client.on('associationAccepted', (negotiated) => {
  accepted = true;
  for (const [file, request] of waiting) {
    if (!negotiated.getAcceptedPresentationContextFromRequest(request)) report(file, 'no context');
  }
});
client.on('associationRejected', () => reportAll('rejected'));
const broken = (outcome) => {
  if (!accepted) reportAll('unreachable');
  const [first] = waiting.keys();
  if (first !== undefined) report(first, outcome);
};
client.on('networkError', (error) => {
  // what goes wrong while a data set is encoded arrives here too
  broken(error.code || /PDU|time/i.test(error.message) ? 'aborted' : 'not sent');
  process.exit();
});
client.on('closed', () => broken('aborted'));
process.on('uncaughtException', () => {
  broken('not sent');
  process.exit();
});

if (waiting.size > 0) {
  const secure = job.tls && {
    key: readFileSync(job.tls.key),
    cert: readFileSync(job.tls.certificate),
    ca: readFileSync(job.tls.authority),
    rejectUnauthorized: true,
  };
  client.send(job.host, job.port, job.calling, job.called, {
    connectTimeout: 60000,
    associationTimeout: 600000,
    pduTimeout: 600000,
    datasetWriteOptions: { allowInvalidVRLength: true },
    ...(secure ? { securityOptions: secure } : {}),
  });
}
