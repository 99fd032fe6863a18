//! One keep-alive connection that writes prepared bytes and reads answers, with as little of its own as
//! possible: the load must not be what is measured.

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// No answer here comes near this size.
const LIMIT_BYTES: usize = 64 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// An answer, read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Status code.
    pub status: u16,
    /// Status line and headers, as they came.
    pub head: &'a [u8],
    /// Body.
    pub body: &'a [u8],
}

impl Connection {
    /// Opens a connection to `host:port`.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("nobody answers at {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, bytes: Vec::with_capacity(2048) })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// If the connection breaks, or the answer is none with a length.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.bytes.clear();
        let (status, head, end) = loop {
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                bail!("the connection was closed within an answer");
            }
            if let Some((status, head, length)) = head(&self.bytes)? {
                let end = head.saturating_add(length);
                if end > LIMIT_BYTES {
                    bail!("an answer of {end} bytes");
                }
                while self.bytes.len() < end {
                    if self.stream.read_buf(&mut self.bytes).await? == 0 {
                        bail!("the connection was closed within a body");
                    }
                }
                break (status, head, end);
            }
        };
        let (head, body) =
            self.bytes.get(..end).and_then(|all| all.split_at_checked(head)).context("a short answer")?;
        Ok(Answer { status, head, body })
    }
}

/// Status, bytes of the head and bytes of the body, once the head is complete.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = response.parse(bytes).context("an answer that is no HTTP")? else {
        return Ok(None);
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    let status = response.code.context("an answer without a status")?;
    Ok(Some((status, end, length.with_context(|| format!("an answer {status} without a length"))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let answer = b"HTTP/1.1 410 Gone\r\nContent-Length: 2\r\nX: y\r\n\r\nok";
        for end in 0..answer.len() - 2 {
            assert_eq!(head(&answer[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(head(answer).unwrap(), Some((410, answer.len() - 2, 2)));
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err() && head(b"nonsense\r\n\r\n").is_err());
    }
}
