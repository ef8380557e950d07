//! The encoding on the handover socket.
//!
//! A frame is its length (32 bits, big endian) and then JSON. Descriptors travel as `SCM_RIGHTS` ancillary data of single bytes,
//! because the kernel attaches ancillary data to bytes of the stream.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Descriptors per message. The limit of Linux is 253 (`SCM_MAX_FD`).
const BATCH: usize = 64;
/// Largest accepted frame, in bytes.
const LARGEST: u32 = 64 << 20;

/// Sends a frame.
pub(super) async fn send(stream: &mut UnixStream, frame: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(frame)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&json).await
}

/// Receives a frame. Reads no byte beyond it: the next one may carry descriptors, which an ordinary read would discard.
pub(super) async fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let length = stream.read_u32().await?;
    if length > LARGEST {
        return Err(invalid("frame too long"));
    }
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json).await?;
    Ok(serde_json::from_slice(&json)?)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Sends descriptors. The receiver gets duplicates of them.
pub(super) async fn send_descriptors(stream: &UnixStream, all: &[OwnedFd]) -> io::Result<()> {
    for batch in all.chunks(BATCH) {
        let batch: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
        let send = || {
            let sent = message(stream.as_fd(), &[0], &batch)?;
            (sent == 1)
                .then_some(())
                .ok_or(io::ErrorKind::WriteZero.into())
        };
        stream.async_io(Interest::WRITABLE, send).await?;
    }
    Ok(())
}

/// Sends `bytes` as one message with descriptors attached.
///
/// # Errors
/// More than 64 descriptors, or an error of `sendmsg`.
pub(crate) fn message(
    to: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(invalid("too many descriptors for one message"));
    }
    let bytes = [IoSlice::new(bytes)];
    Ok(sendmsg(to, &bytes, &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives `count` descriptors, with `FD_CLOEXEC` set.
pub(super) async fn receive_descriptors(
    stream: &UnixStream,
    count: usize,
) -> io::Result<Vec<OwnedFd>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let received = stream
            .async_io(Interest::READABLE, || one_batch(stream.as_fd()))
            .await?;
        if received.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        all.extend(received);
    }
    if all.len() > count {
        return Err(invalid("received more descriptors than announced"));
    }
    Ok(all)
}

fn one_batch(from: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    recvmsg(from, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let rights = |message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    };
    Ok(control.drain().filter_map(rights).flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_and_descriptors_keep_their_order() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let sockets: Vec<_> = (0..BATCH + 3)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports: Vec<_> = sockets
            .iter()
            .map(|s| s.local_addr().unwrap().port())
            .collect();
        let owned: Vec<OwnedFd> = sockets.into_iter().map(OwnedFd::from).collect();
        send(&mut a, &"before").await.unwrap();
        send_descriptors(&a, &owned).await.unwrap();
        drop(owned);
        send(&mut a, &"after").await.unwrap();
        assert_eq!(receive::<String>(&mut b).await.unwrap(), "before");
        let received = receive_descriptors(&b, ports.len()).await.unwrap();
        assert_eq!(receive::<String>(&mut b).await.unwrap(), "after");
        let port = |fd| {
            let listener = std::net::TcpListener::from(fd);
            listener.local_addr().unwrap().port()
        };
        assert_eq!(received.into_iter().map(port).collect::<Vec<_>>(), ports);
    }

    #[tokio::test]
    async fn a_closed_connection_and_an_oversized_frame_are_errors() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        let error = receive::<String>(&mut b).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(a);
        let error = receive_descriptors(&b, 1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
