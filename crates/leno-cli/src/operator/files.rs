//! Reading the files of `-f`: single files, directories, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::Failure;

/// One text with the name that messages call it by.
pub struct Source {
    /// File name, or `stdin`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Every file that the arguments name; a directory gives its .yaml, .yml and .json files in the order of their names.
pub fn read(arguments: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for argument in arguments {
        if argument == Path::new("-") {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|e| Failure::Failed(anyhow::anyhow!("cannot read standard input: {e}")))?;
            sources.push(Source { name: "stdin".to_owned(), text });
        } else if argument.is_dir() {
            let mut files: Vec<PathBuf> = std::fs::read_dir(argument)?
                .filter_map(|e| Some(e.ok()?.path()))
                .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"))
                .collect();
            files.sort();
            if files.is_empty() {
                return Err(Failure::NotFound(format!("{}: no .yaml, .yml or .json file in it", argument.display())));
            }
            for file in files {
                sources.push(one(&file)?);
            }
        } else {
            sources.push(one(argument)?);
        }
    }
    Ok(sources)
}

fn one(file: &Path) -> Result<Source, Failure> {
    let name = file.display().to_string();
    match std::fs::read(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Failure::NotFound(format!("{name}: no such file"))),
        Err(e) => Err(Failure::Failed(anyhow::anyhow!("{name}: {e}"))),
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Source { name, text }),
            Err(e) => Err(Failure::Failed(anyhow::anyhow!(
                "{name}: byte {} is not UTF-8; resources are text",
                e.utf8_error().valid_up_to()
            ))),
        },
    }
}
