//! Writing named tensors as a safetensors file. Reading is [`crate::checkpoint`]'s.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

/// A tensor file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {reason}", path.display())]
pub struct TensorFileError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Writes f32 tensors, each with its name and extents, row-major. The file appears whole or not
/// at all.
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, Vec<usize>, &'a [f32])>,
) -> Result<(), TensorFileError> {
    let failed = |reason: String| TensorFileError {
        path: path.to_path_buf(),
        reason,
    };
    let encoded: Vec<(&str, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, shape, x)| {
            let bytes = x.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = encoded
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            Ok((*name, view.map_err(|error| failed(error.to_string()))?))
        })
        .collect::<Result<Vec<_>, TensorFileError>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|error| failed(error.to_string()))?;
    crate::plan_dir::write_whole(path, &bytes).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let x = [1.5, -2.0, 0.0, f32::MIN_POSITIVE, 4.0, 5.0];
        write(&path, [("a", vec![2, 3], &x[..]), ("b", vec![1], &x[..1])]).unwrap();
        let file = Checkpoint::open(&path).unwrap();
        assert_eq!(file.read_f32("a").unwrap(), x);
        assert_eq!(file.tensor("a").unwrap().shape, [2, 3]);
        assert_eq!(file.read_f32("b").unwrap(), x[..1]);
        let error = write(&dir.path().join("no/x"), [("a", vec![2], &x[..2])]).unwrap_err();
        assert!(error.to_string().contains("no/x"), "{error}");
        assert!(write(&path, [("a", vec![3], &x[..2])]).is_err());
    }
}
