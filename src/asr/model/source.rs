//! Weights on disk or in the binary, looked up by tensor name.
//!
//! Files are memory-mapped; a tensor is copied (and widened to f32) when it is asked for. Lives on the loading
//! thread and is dropped when the model is built.

use std::{
    collections::HashMap,
    fs::File,
    io::Cursor,
    path::{Path, PathBuf},
};

use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::Metadata};

use super::ModelError;
use crate::asr::weights::{EmbeddedFile, ModelFiles};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A file's bytes, wherever they are.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// The small files of a model, read whole.
#[derive(Debug)]
pub struct Files<'a> {
    files: &'a ModelFiles,
}

impl<'a> Files<'a> {
    /// Looks at a model's files; reads nothing yet.
    #[must_use]
    pub const fn new(files: &'a ModelFiles) -> Self {
        Self { files }
    }

    /// Where the files are, for messages.
    #[must_use]
    pub fn location(&self) -> String {
        match self.files {
            ModelFiles::Directory(path) => path.display().to_string(),
            ModelFiles::Embedded(_) => "the built-in model".into(),
        }
    }

    /// The content of a file that may be absent.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn optional(&self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        match self.files {
            ModelFiles::Directory(directory) => {
                let path = directory.join(name);
                match std::fs::read(&path) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(ModelError::Io { path, source }),
                }
            }
            ModelFiles::Embedded(files) => Ok(embedded(files, name).map(<[u8]>::to_vec)),
        }
    }

    /// The content of a file that every model has.
    ///
    /// # Errors
    /// The file is missing or cannot be read.
    pub fn required(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        self.optional(name)?
            .ok_or_else(|| ModelError::MissingFile { location: self.location(), file: name.into() })
    }

    /// Opens the weights: `model.safetensors`, its shards, or the one `*.gguf` of the directory.
    ///
    /// # Errors
    /// No weights, an unreadable or damaged file.
    pub fn weights(&self) -> Result<Weights, ModelError> {
        let missing = |file: String| ModelError::MissingFile { location: self.location(), file };
        let directory = match self.files {
            ModelFiles::Embedded(files) => {
                let bytes = embedded(files, SINGLE).ok_or_else(|| missing(SINGLE.into()))?;
                let shard = Shard::read(SINGLE.into(), Bytes::Embedded(bytes))?;
                return Ok(Weights::Safetensors(vec![shard]));
            }
            ModelFiles::Directory(directory) => directory,
        };
        if directory.join(SINGLE).exists() {
            return Ok(Weights::Safetensors(vec![Shard::open(&directory.join(SINGLE))?]));
        }
        if let Some(index) = self.optional(INDEX)? {
            let names = shard_names(&index)?;
            let open = |name: &String| match Shard::open(&directory.join(name)) {
                Err(ModelError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    Err(missing(format!("{name}, which {INDEX} lists")))
                }
                other => other,
            };
            return Ok(Weights::Safetensors(names.iter().map(open).collect::<Result<_, _>>()?));
        }
        match gguf_path(directory)? {
            Some(path) => Ok(Weights::Gguf(Box::new(Gguf::open(&path)?))),
            None => Err(missing(format!("{SINGLE}, {INDEX} or *.gguf"))),
        }
    }
}

fn embedded(files: &'static [EmbeddedFile], name: &str) -> Option<&'static [u8]> {
    files.iter().find(|f| f.name == name).map(|f| f.bytes)
}

/// The distinct file names of a shard index, each a plain name in the same directory.
fn shard_names(index: &[u8]) -> Result<Vec<String>, ModelError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let damaged = |reason: String| ModelError::Damaged { file: INDEX.into(), reason };
    let index: Index = serde_json::from_slice(index).map_err(|e| damaged(e.to_string()))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    // A name with a separator could point outside the model's directory.
    match names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        Some(bad) => Err(damaged(format!("{bad:?} is not a file name"))),
        None if names.is_empty() => Err(damaged("it lists no files".into())),
        None => Ok(names),
    }
}

/// The only `*.gguf` of a directory; the first by name when there are several.
fn gguf_path(directory: &Path) -> Result<Option<PathBuf>, ModelError> {
    let io = |source| ModelError::Io { path: directory.to_path_buf(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            found.push(path);
        }
    }
    Ok(found.into_iter().min())
}

fn map(path: &Path) -> Result<Mmap, ModelError> {
    let io = |source| ModelError::Io { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io)?;
    #[allow(unsafe_code, reason = "memory-mapping a file")]
    // SAFETY: the map is read-only, and tensors are copied out of it while loading. If another program truncates the
    // file meanwhile the process gets SIGBUS; model files are installed by rename and never rewritten in place.
    unsafe { Mmap::map(&file) }.map_err(io)
}

/// One safetensors file.
#[derive(Debug)]
pub struct Shard {
    file: String,
    bytes: Bytes,
    /// Where the data begins.
    start: usize,
    metadata: Metadata,
}

impl Shard {
    fn open(path: &Path) -> Result<Self, ModelError> {
        Self::read(path.display().to_string(), Bytes::Mapped(map(path)?))
    }

    fn read(file: String, bytes: Bytes) -> Result<Self, ModelError> {
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| ModelError::Damaged { file: file.clone(), reason: e.to_string() })?;
        // The header's own length comes first, in eight bytes.
        Ok(Self { file, bytes, start: header + 8, metadata })
    }
}

/// A GGUF file.
#[derive(Debug)]
pub struct Gguf {
    file: String,
    bytes: Mmap,
    content: gguf_file::Content,
}

impl Gguf {
    fn open(path: &Path) -> Result<Self, ModelError> {
        let file = path.display().to_string();
        let bytes = map(path)?;
        let damaged = |reason: String| ModelError::Damaged { file: file.clone(), reason };
        // candle's reader trusts some numbers of the header (it divides by the alignment) and panics on nonsense.
        let content = std::panic::catch_unwind(|| gguf_file::Content::read(&mut Cursor::new(&bytes[..])))
            .map_err(|_| damaged("its header makes no sense".into()))?
            .map_err(|e| damaged(e.to_string()))?;
        Ok(Self { file, bytes, content })
    }
}

/// A weight as the file has it.
#[derive(Debug)]
pub enum Stored {
    /// f32 on the device.
    Dense(Tensor),
    /// Quantised, on the device.
    Quantized(QTensor),
}

/// The open weights of a model.
#[derive(Debug)]
pub enum Weights {
    /// One or more safetensors files.
    Safetensors(Vec<Shard>),
    /// One GGUF file with Hugging Face tensor names.
    Gguf(Box<Gguf>),
}

impl Weights {
    /// The shape of a tensor, when there is one of that name.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self {
            Self::Safetensors(shards) => {
                shards.iter().find_map(|s| s.metadata.info(name)).map(|i| i.shape.clone())
            }
            Self::Gguf(gguf) => gguf.content.tensor_infos.get(name).map(|i| i.shape.dims().to_vec()),
        }
    }

    /// The file that has (or should have) a tensor, for messages.
    #[must_use]
    pub fn file_of(&self, name: &str) -> &str {
        match self {
            Self::Safetensors(shards) => {
                let holder = shards.iter().find(|s| s.metadata.info(name).is_some());
                holder.or(shards.first()).map_or(SINGLE, |s| s.file.as_str())
            }
            Self::Gguf(gguf) => &gguf.file,
        }
    }

    /// Copies a tensor of known shape to the device.
    ///
    /// # Errors
    /// It is missing, of another shape or type, cut short, or does not fit on the device.
    pub fn get(&self, name: &str, expected: &[usize], device: &Device) -> Result<Stored, ModelError> {
        let file = self.file_of(name);
        let Some(found) = self.shape(name) else {
            return Err(ModelError::MissingTensor { file: file.into(), tensor: name.into() });
        };
        if found != expected {
            return Err(ModelError::Shape {
                file: file.into(),
                tensor: name.into(),
                expected: expected.to_vec(),
                found,
            });
        }
        let placement = |source| ModelError::Placement {
            tensor: name.into(),
            device: super::device::name(device),
            source: Box::new(source),
        };
        match self {
            Self::Safetensors(shards) => {
                let Some((shard, dtype, bytes)) = shards.iter().find_map(|s| s.tensor(name)) else {
                    return Err(ModelError::MissingTensor { file: file.into(), tensor: name.into() });
                };
                let dtype = match dtype {
                    Dtype::F32 => DType::F32,
                    Dtype::F16 => DType::F16,
                    Dtype::BF16 => DType::BF16,
                    other => {
                        let dtype = format!("{other:?}");
                        return Err(ModelError::Dtype {
                            file: shard.file.clone(),
                            tensor: name.into(),
                            dtype,
                        });
                    }
                };
                Tensor::from_raw_buffer(bytes, dtype, expected, &Device::Cpu)
                    .and_then(|t| t.to_dtype(DType::F32)?.to_device(device))
                    .map(Stored::Dense)
                    .map_err(placement)
            }
            Self::Gguf(gguf) => {
                let damaged = |reason: String| ModelError::Damaged { file: file.into(), reason };
                // As for the header: an offset of nonsense overflows in candle. Nothing is shared with the closure
                // but the bytes, which it only reads.
                let read = || gguf.content.tensor(&mut Cursor::new(&gguf.bytes[..]), name, device);
                let tensor = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
                    .map_err(|_| damaged(format!("tensor {name} lies outside of it")))?
                    .map_err(|e| damaged(format!("tensor {name}: {e}")))?;
                match tensor.dtype() {
                    GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                        tensor.dequantize(device).map(Stored::Dense).map_err(placement)
                    }
                    _ => Ok(Stored::Quantized(tensor)),
                }
            }
        }
    }
}

impl Shard {
    /// The type and bytes of a tensor; `None` when it is not in this file.
    fn tensor(&self, name: &str) -> Option<(&Self, Dtype, &[u8])> {
        let info = self.metadata.info(name)?;
        let (from, to) = info.data_offsets;
        // In range: reading the header checked that the offsets cover the file exactly.
        Some((self, info.dtype, self.bytes.get(self.start + from..self.start + to)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_cannot_leave_its_directory() {
        for bad in ["../model.safetensors", "/etc/passwd", "a/b", ".."] {
            let index = serde_json::json!({"weight_map": {"x": bad}}).to_string();
            assert!(matches!(shard_names(index.as_bytes()), Err(ModelError::Damaged { .. })), "{bad}");
        }
        let index = br#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}"#;
        assert_eq!(shard_names(index).unwrap(), ["a.safetensors", "b.safetensors"]);
        assert!(shard_names(b"{}").is_err());
        assert!(shard_names(br#"{"weight_map": {}}"#).is_err());
    }
}
