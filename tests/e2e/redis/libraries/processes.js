// PROCESSES processes of the same program, which sees that it is one of them by process.send.
const { fork } = require("child_process");

const started = () => new Promise((resolve) => fork(process.argv[1], process.argv.slice(2)).on("exit", resolve));

// Resolves to their exit codes.
exports.together = () => Promise.all([...Array(Number(process.env.PROCESSES))].map(started));
