//! One keep-alive connection that writes prepared bytes and reads responses. It costs little, because the
//! load must not be what is measured.

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// No response of the measured workers comes near this size.
const LIMIT_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// A complete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawResponse<'a> {
    pub status: u16,
    /// Status line and headers.
    pub head: &'a [u8],
    pub body: &'a [u8],
}

impl RawConnection {
    /// `address` is `host:port`.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, bytes: Vec::with_capacity(2048) })
    }

    /// # Errors
    /// If the connection breaks, or the response has no length.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<RawResponse<'_>> {
        self.stream.write_all(request).await?;
        self.bytes.clear();
        let (status, head, end) = loop {
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                bail!("the connection was closed within a response");
            }
            if let Some((status, head, length)) = head(&self.bytes)? {
                let end = head.saturating_add(length);
                if end > LIMIT_BYTES {
                    bail!("a response of {end} bytes");
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
            self.bytes.get(..end).and_then(|all| all.split_at_checked(head)).context("a short response")?;
        Ok(RawResponse { status, head, body })
    }
}

/// Status, bytes of the head and bytes of the body, once the head is complete.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = response.parse(bytes).context("a response that is not HTTP")? else {
        return Ok(None);
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    let status = response.code.context("a response without a status")?;
    Ok(Some((status, end, length.with_context(|| format!("a response {status} without a length"))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_once_it_is_complete() {
        let response = b"HTTP/1.1 410 Gone\r\nContent-Length: 2\r\nX: y\r\n\r\nok";
        for end in 0..response.len() - 2 {
            assert_eq!(head(&response[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(head(response).unwrap(), Some((410, response.len() - 2, 2)));
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err() && head(b"nonsense\r\n\r\n").is_err());
    }
}
