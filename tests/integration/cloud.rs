//! Packed folders in an object store, which here is moto's imitation of S3, and on a web server; both are in Python.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::*;

/// A server that ends with the test.
struct Store {
    server: Child,
    address: String,
}

/// Starts a server on a free port and uploads each file of a folder to `bucket/folder`.
const SERVER: &str = r#"
import os, sys, urllib.request
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
base = f"http://127.0.0.1:{port}"
def put(path, data):
    length = {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(base + path, data=data, method="PUT", headers=length))
put("/bucket", b"")
for name in os.listdir(sys.argv[1]):
    put("/bucket/folder/" + name, open(os.path.join(sys.argv[1], name), "rb").read())
print(base, flush=True)
sys.stdin.read()
"#;

/// A web server that knows ranges and is out of order at every third request.
const FLAKY: &str = r#"
import http.server, os, re, sys, threading
lock, count = threading.Lock(), 0
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, status, body, headers={}):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
    def do_GET(self):
        global count
        with lock:
            count += 1
            fails = count % 3 == 0
        path = os.path.join(sys.argv[1], os.path.basename(self.path))
        if fails:
            return self.answer(503, b"")
        if not os.path.isfile(path):
            return self.answer(404, b"")
        body = open(path, "rb").read()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked:
            return self.answer(200, body)
        first, last = map(int, asked.groups())
        self.answer(206, body[first:last + 1], {"Content-Range": f"bytes {first}-{last}/{len(body)}"})
    do_HEAD = do_GET
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"http://127.0.0.1:{server.server_port}", flush=True)
sys.stdin.read()
"#;

fn python() -> String {
    std::env::var("SCRL_PYTHON").unwrap_or_else(|_| "python3".into())
}

impl Store {
    /// S3 with the files of `folder`; none where there is no moto.
    fn start(folder: &Path) -> Option<Self> {
        let python = python();
        let known = Command::new(&python).args(["-c", "import moto.server"]).stderr(Stdio::null()).status();
        if !known.is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("SCRL_REQUIRE_MOTO").is_none(), "{python} has no moto[server]");
            eprintln!("skipped: {python} has no moto[server]");
            return None;
        }
        Some(Self::run(SERVER, folder))
    }

    fn run(program: &str, folder: &Path) -> Self {
        let mut server = Command::new(python())
            .args(["-c", program, text(folder)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python starts");
        let mut address = String::new();
        let output = server.stdout.take().expect("its output is piped");
        BufReader::new(output).read_line(&mut address).expect("the server tells its address");
        assert!(address.starts_with("http"), "the server has not started: {address}");
        Self { server, address: address.trim().to_string() }
    }

    /// The binary as a user of this store calls it.
    fn scrl(&self, args: &[&str], cache: &Path) -> assert_cmd::Command {
        let mut command = scrl(args);
        command.env("AWS_ENDPOINT", &self.address).env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        command.env("AWS_REGION", "us-east-1").env("SCRL_CACHE_DIR", cache);
        command
    }

    fn stop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn a_folder_in_an_object_store_trains_to_the_same_bits_and_the_cache_serves_it_again() {
    let tmp = temporary();
    let images = scenes(tmp.path()).join("unlabelled");
    let packed = tmp.path().join("packed");
    succeed(&["pack", "--data", text(&images), "--out", text(&packed)]);
    let Some(store) = Store::start(&packed) else { return };
    let (recipe, cache) = (tiny_pretrain(tmp.path(), "scrl"), tmp.path().join("cache"));
    let weights =
        |run: &Path| fs::read(run.join("weights/backbone.safetensors")).expect("the run has weights");
    let run = |data: &str, name: &str, extra: &[(&str, &str)]| {
        let out = tmp.path().join(name);
        let args = ["pretrain", "--config", text(&recipe), "--data", data, "--out", text(&out)];
        let mut command = store.scrl(&args, &cache);
        command.envs(extra.iter().copied()).assert().success();
        out
    };
    let plain = run(text(&images), "plain", &[]);
    let uncached = run("s3://bucket/folder", "uncached", &[("SCRL_CACHE_GIB", "0")]);
    assert!(weights(&plain) == weights(&uncached), "the weights differ");
    let cached = |folder: &Path| -> u64 {
        let entries = walk(folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "list"));
        entries.map(|path| fs::read_to_string(path).unwrap().lines().count() as u64).sum()
    };
    assert_eq!(cached(&cache), 0, "nothing is kept without room");
    let fresh = run("s3://bucket/folder", "fresh", &[]);
    assert_eq!(cached(&cache), 12, "every image is kept once");
    let again = run("s3://bucket/folder", "again", &[]);
    assert!(weights(&plain) == weights(&fresh) && weights(&plain) == weights(&again));
    let list = |run: &Path| fs::read_to_string(run.join("data.tsv")).unwrap();
    assert_eq!(list(&plain), list(&again));
}

#[test]
fn a_web_server_that_is_out_of_order_now_and_then_is_asked_again() {
    let tmp = temporary();
    let images = scenes(tmp.path()).join("unlabelled");
    let packed = tmp.path().join("packed");
    succeed(&["pack", "--data", text(&images), "--out", text(&packed)]);
    let store = Store::run(FLAKY, &packed);
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let weights = |data: &str, name: &str| {
        let out = tmp.path().join(name);
        let args = ["pretrain", "--config", text(&recipe), "--data", data, "--out", text(&out)];
        store.scrl(&args, &tmp.path().join("cache")).assert().success();
        fs::read(out.join("weights/backbone.safetensors")).expect("the run has weights")
    };
    assert!(weights(&store.address, "web") == weights(text(&packed), "disk"), "the weights differ");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn what_a_store_does_not_have_is_named() {
    let tmp = temporary();
    let images = scenes(tmp.path()).join("unlabelled");
    let packed = tmp.path().join("packed");
    succeed(&["pack", "--data", text(&images), "--out", text(&packed)]);
    let Some(mut store) = Store::start(&packed) else { return };
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let refused = |store: &Store, data: &str| {
        let out = tmp.path().join("run");
        let args = ["pretrain", "--config", text(&recipe), "--data", data, "--out", text(&out)];
        let output = store.scrl(&args, &tmp.path().join("cache")).output().expect("the binary starts");
        assert!(!output.status.success() && !out.exists());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let message = refused(&store, "s3://bucket/elsewhere");
    assert!(message.contains("s3://bucket/elsewhere/index.tsv"), "{message}");
    let message = refused(&store, "ftp://bucket/folder");
    assert!(message.contains("ftp://bucket/folder"), "{message}");
    store.stop();
}
