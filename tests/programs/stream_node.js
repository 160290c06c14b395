// A web server and its clients: node stream_node.js serve|ask ADDRESS PORT [FILE]
const fs = require("fs");
const http = require("http");

const [role, address, port, file] = process.argv.slice(2);

function serve() {
  http
    .createServer((request, response) => {
      if (request.url === "/large") {
        fs.createReadStream(file).pipe(response);
      } else if (request.method === "POST") {
        request.pipe(response);
      } else {
        response.end("small");
      }
    })
    .listen({ port: Number(port), host: address, backlog: 1024 }, () => console.log("ready"));
}

function post(agent, number) {
  const body = Buffer.alloc(1000 + number * 4001, `${number},`);
  return new Promise((resolve, reject) => {
    const options = { host: address, port, path: "/echo", method: "POST", agent };
    const request = http.request(options, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("error", reject);
      response.on("end", () => {
        Buffer.concat(parts).equals(body) ? resolve() : reject(new Error(`answer ${number} is another`));
      });
    });
    request.on("error", reject);
    request.end(body);
  });
}

async function ask() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 10 });
  await Promise.all([...Array(50).keys()].map((number) => post(agent, number)));
  agent.destroy();
  console.log("50 answers are what was asked");
}

if (role === "serve") serve();
else
  ask().catch((error) => {
    console.error(error);
    process.exit(1);
  });
