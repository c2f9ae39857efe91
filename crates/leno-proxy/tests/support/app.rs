//! A small real application: HTTP/1.1 by hand, so that a test sees every byte that the proxies let through.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What arrived at the application: start line, header lines, body.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub start: String,
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Seen {
    /// The value of a header, if it came once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter_map(|h| {
            let (n, v) = h.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        });
        let first = found.next();
        assert!(found.next().is_none(), "{name} came twice: {:?}", self.headers);
        first
    }
}

/// A running application.
#[derive(Clone)]
pub struct App {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    name: &'static str,
}

/// Bytes of `/flood`: more than anybody reads in a test.
pub const FLOOD: usize = 2 << 30;

impl App {
    /// Listens on loopback and serves until the test process ends.
    pub fn http(name: &'static str) -> Self {
        Self::http_at(name, "127.0.0.1:0")
    }

    /// Listens there.
    pub fn http_at(name: &'static str, address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let app = Self { address: listener.local_addr().unwrap(), seen: Arc::default(), name };
        let serving = app.clone();
        std::thread::spawn(move || {
            for io in listener.incoming().flatten() {
                let app = serving.clone();
                std::thread::spawn(move || app.connection(io));
            }
        });
        app
    }

    /// Says `banner` first, then echoes, and ends when its peer has ended.
    pub fn server_first(banner: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut io in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    io.write_all(banner.as_bytes()).ok()?;
                    let mut buffer = [0; 4096];
                    loop {
                        match io.read(&mut buffer) {
                            Ok(0) => {
                                io.write_all(b"bye").ok()?;
                                return Some(());
                            }
                            Ok(n) => io.write_all(&buffer[..n]).ok()?,
                            Err(_) => return None,
                        }
                    }
                });
            }
        });
        address
    }

    /// Everything that arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The last that arrived.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("something arrived")
    }

    fn connection(&self, io: TcpStream) -> Option<()> {
        let mut out = io.try_clone().ok()?;
        let mut input = BufReader::new(io);
        loop {
            let mut seen = Seen::default();
            let mut line = String::new();
            if input.read_line(&mut line).ok()? == 0 {
                return None;
            }
            seen.start = line.trim_end().to_owned();
            loop {
                line.clear();
                input.read_line(&mut line).ok()?;
                if line.trim_end().is_empty() {
                    break;
                }
                seen.headers.push(line.trim_end().to_owned());
            }
            let path = seen.start.split(' ').nth(1)?.to_owned();
            if path == "/early" {
                self.seen.lock().unwrap().push(seen);
                out.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlate").ok()?;
                return None;
            }
            if seen.header("expect").is_some() {
                out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
            }
            seen.body = read_body(&mut input, &seen)?;
            let body = seen.body.clone();
            let head_only = seen.start.starts_with("HEAD ");
            self.seen.lock().unwrap().push(seen.clone());
            match path.split('?').next()? {
                "/echo" => self.answer(&mut out, head_only, &body)?,
                "/chunked" => out
                    .write_all(
                        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                          5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\n\r\n",
                    )
                    .ok()?,
                "/hints" => {
                    out.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n").ok()?;
                    self.answer(&mut out, head_only, b"hinted")?;
                }
                "/upgrade" => {
                    out.write_all(
                        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                    )
                    .ok()?;
                    let mut buffer = [0; 1024];
                    loop {
                        let n = input.read(&mut buffer).ok()?;
                        if n == 0 {
                            return None;
                        }
                        out.write_all(&buffer[..n]).ok()?;
                    }
                }
                "/close" => {
                    out.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end").ok()?;
                    return None;
                }
                "/cut" => {
                    out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").ok()?;
                    return None;
                }
                "/close-now" => return None,
                "/slow" => {
                    // Never answers; ends when its peer goes.
                    let mut byte = [0];
                    let _ = input.read(&mut byte).ok()?;
                    return None;
                }
                "/flood" => {
                    out.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {FLOOD}\r\n\r\n").as_bytes()).ok()?;
                    let piece = vec![b'x'; 1 << 16];
                    for _ in 0..FLOOD / piece.len() {
                        out.write_all(&piece).ok()?;
                    }
                }
                "/drip" => {
                    out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").ok()?;
                    let mut byte = [0];
                    let _ = input.read(&mut byte).ok()?;
                    return None;
                }
                _ => {
                    let text = format!("{} {}", self.name, path);
                    self.answer(&mut out, head_only, text.as_bytes())?;
                }
            }
        }
    }

    fn answer(&self, out: &mut TcpStream, head_only: bool, body: &[u8]) -> Option<()> {
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-app: {}\r\n\r\n", body.len(), self.name).into_bytes();
        if !head_only {
            bytes.extend_from_slice(body);
        }
        out.write_all(&bytes).ok()
    }
}

fn read_body(input: &mut BufReader<TcpStream>, seen: &Seen) -> Option<Vec<u8>> {
    if let Some(length) = seen.header("content-length") {
        let mut body = vec![0; length.parse().ok()?];
        input.read_exact(&mut body).ok()?;
        return Some(body);
    }
    let mut body = Vec::new();
    if seen.header("transfer-encoding").is_some() {
        let mut line = String::new();
        loop {
            line.clear();
            input.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim_end().split(';').next()?, 16).ok()?;
            if length == 0 {
                loop {
                    line.clear();
                    input.read_line(&mut line).ok()?;
                    if line.trim_end().is_empty() {
                        return Some(body);
                    }
                }
            }
            let start = body.len();
            body.resize(start + length, 0);
            input.read_exact(&mut body[start..]).ok()?;
            input.read_line(&mut line).ok()?;
        }
    }
    Some(body)
}
