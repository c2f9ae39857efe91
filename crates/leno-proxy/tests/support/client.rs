//! A raw HTTP/1.1 caller: sends the bytes it is given and reads one answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection of a local caller to a proxy.
pub struct Caller {
    pub input: BufReader<TcpStream>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<String>,
    pub body: Vec<u8>,
    pub trailers: Vec<String>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|h| {
            let (n, v) = h.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Caller {
    /// Connects; reads that take longer than any healthy answer fail the test instead of hanging it.
    pub fn new(address: SocketAddr) -> Self {
        let io = TcpStream::connect(address).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { input: BufReader::new(io) }
    }

    pub fn send(&mut self, bytes: &str) -> &mut Self {
        self.input.get_mut().write_all(bytes.as_bytes()).unwrap();
        self
    }

    /// One interim or final answer.
    pub fn head(&mut self) -> Answer {
        let status = self.line();
        let status: u16 = status.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {status:?}")).parse().unwrap();
        Answer { status, headers: self.lines(), body: Vec::new(), trailers: Vec::new() }
    }

    /// The next final answer with its body.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        while answer.status < 200 && answer.status != 101 {
            answer = self.head();
        }
        if let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.input.read_exact(&mut answer.body).unwrap();
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let size = self.line();
                let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
                if size == 0 {
                    answer.trailers = self.lines();
                    break;
                }
                let start = answer.body.len();
                answer.body.resize(start + size, 0);
                self.input.read_exact(&mut answer.body[start..]).unwrap();
                self.line();
            }
        }
        answer
    }

    pub fn get(&mut self, host: &str, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).answer()
    }

    /// Everything until the peer ends or resets.
    pub fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _ = self.input.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }

    pub fn exact(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.input.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn lines(&mut self) -> Vec<String> {
        std::iter::repeat_with(|| self.line()).take_while(|l| !l.is_empty()).collect()
    }
}
