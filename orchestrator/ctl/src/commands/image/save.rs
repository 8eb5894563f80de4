//! `image save`: images as an archive or as a folder.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Component, Path, PathBuf};

use http_body_util::BodyExt;
use hyper::body::Bytes;
use tokio::sync::mpsc;

use super::super::Context;
use super::IMAGES;
use crate::cli::{Save, SaveAs};
use crate::client::Call;
use crate::error::CtlError;
use crate::output;
use crate::resource::query;

/// Pieces that are received ahead.
const PIECES: usize = 16;

pub(super) async fn run(context: &Context, options: &Save) -> Result<(), CtlError> {
    let folder = options.format == SaveAs::OciDir;
    let target = options.output.clone();
    if target.is_none() && folder {
        return Err(CtlError::Usage(
            "a folder needs a name: give --output DIR".to_owned(),
        ));
    }
    if target.is_none() && io::stdout().is_terminal() {
        return Err(CtlError::Usage(
            "an archive is not for a terminal: give --output FILE, or redirect it".to_owned(),
        ));
    }
    let format = match options.format {
        SaveAs::DockerArchive => "docker-archive",
        SaveAs::OciArchive | SaveAs::OciDir => "oci-archive",
    };
    let mut parameters = vec![("format", format.to_owned())];
    parameters.extend(options.names.iter().map(|name| ("name", name.clone())));
    let path = format!("{IMAGES}/archive{}", query(&parameters));
    let mut body = context.client.open(Call::get(&path)).await?.into_body();
    let (pieces, received) = mpsc::channel(PIECES);
    let writing = tokio::task::spawn_blocking(move || match target {
        Some(path) if folder => unpack(received, &path),
        Some(path) => write_file(received, &path),
        None => copy(received, io::stdout().lock()).map_err(CtlError::Output),
    });
    let mut broken = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let Ok(data) = frame.into_data() else { continue };
                if pieces.send(Ok(data)).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                // A part of an archive must not pass for the whole.
                let _ = pieces.send(Err(io::Error::other("it broke off"))).await;
                broken = Some(context.client.broke(error));
                break;
            }
        }
    }
    drop(pieces);
    let written = writing
        .await
        .unwrap_or_else(|error| Err(CtlError::Output(io::Error::other(error))));
    match broken {
        Some(error) => Err(error),
        None => written,
    }
}

type Received = mpsc::Receiver<io::Result<Bytes>>;

fn copy(mut received: Received, mut out: impl Write) -> io::Result<()> {
    while let Some(piece) = received.blocking_recv() {
        out.write_all(&piece?)?;
    }
    out.flush()
}

/// Beside the file first: what was there stays if the transfer breaks off.
fn write_file(received: Received, path: &Path) -> Result<(), CtlError> {
    let failed = |source| CtlError::Write {
        path: path.to_owned(),
        source,
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let beside = path.with_file_name(name);
    let done = File::create(&beside)
        .and_then(|file| copy(received, file))
        .and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        let _ = fs::remove_file(&beside);
    }
    done.map_err(failed)?;
    output::line(&format!("Saved {}", path.display()))
}

/// Writes the archive's members below a folder, which must be new or empty.
fn unpack(received: Received, folder: &Path) -> Result<(), CtlError> {
    let failed = |source| CtlError::Write {
        path: folder.to_owned(),
        source,
    };
    let made = !folder.exists();
    fs::create_dir_all(folder).map_err(failed)?;
    if fs::read_dir(folder).map_err(failed)?.next().is_some() {
        return Err(CtlError::Usage(format!("{} is not empty", folder.display())));
    }
    let done = members(received, folder);
    if done.is_err() {
        for name in ["blobs", "index.json", "oci-layout"] {
            let path = folder.join(name);
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
        if made {
            let _ = fs::remove_dir(folder);
        }
    }
    done.map_err(failed)?;
    output::line(&format!("Saved {}", folder.display()))
}

fn members(received: Received, folder: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(Pieces {
        received,
        current: Bytes::new(),
    });
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path: PathBuf = entry.path()?.into_owned();
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(io::Error::other(format!(
                "the node sent a file {}",
                path.display()
            )));
        }
        let target = folder.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::options().write(true).create_new(true).open(target)?;
        io::copy(&mut entry, &mut file)?;
    }
    Ok(())
}

struct Pieces {
    received: Received,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        let piece = self.current.split_to(count);
        buffer[..count].copy_from_slice(&piece);
        Ok(count)
    }
}
