//! The same model in other files: shards, half precision, GGUF.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use godctl::asr::model::ModelError;

use super::{assert_close, edit_json, first_logits, load, tensors, tiny, with_weights, without_weights};

#[test]
fn shards_and_bare_names_load() {
    let expected = first_logits(&tiny());
    let directory = without_weights();
    let (mut first, mut second, mut map) = (HashMap::new(), HashMap::new(), HashMap::new());
    for (i, (name, tensor)) in tensors().into_iter().enumerate() {
        let (file, part) = if i % 2 == 0 {
            ("model-00001-of-00002.safetensors", &mut first)
        } else {
            ("model-00002-of-00002.safetensors", &mut second)
        };
        map.insert(name.clone(), file);
        part.insert(name, tensor);
    }
    candle_core::safetensors::save(&first, directory.path().join("model-00001-of-00002.safetensors"))
        .unwrap();
    candle_core::safetensors::save(&second, directory.path().join("model-00002-of-00002.safetensors"))
        .unwrap();
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(directory.path().join("model.safetensors.index.json"), index).unwrap();
    assert_eq!(first_logits(&load(directory.path()).unwrap()), expected);
    fs::remove_file(directory.path().join("model-00002-of-00002.safetensors")).unwrap();
    let error = load(directory.path()).unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");

    let bare = tensors().into_iter().map(|(n, t)| (n.trim_start_matches("model.").to_owned(), t)).collect();
    assert_eq!(first_logits(&load(with_weights(&bare).path()).unwrap()), expected);
}

#[test]
fn half_precision_loads() {
    let expected = first_logits(&tiny());
    for (dtype, tolerance) in [(DType::F16, 0.05), (DType::BF16, 0.4)] {
        let half = tensors().into_iter().map(|(n, t)| (n, t.to_dtype(dtype).unwrap())).collect();
        let got = first_logits(&load(with_weights(&half).path()).unwrap());
        assert_close(&got, &expected, tolerance);
        assert_ne!(got, expected);
    }
}

#[test]
fn an_untied_projection_is_used() {
    let mut tensors = tensors();
    let table = tensors["model.decoder.embed_tokens.weight"].clone();
    tensors.insert("proj_out.weight".into(), (&table * 2.0).unwrap());
    let directory = with_weights(&tensors);
    let tied = first_logits(&load(directory.path()).unwrap());
    assert_eq!(tied, first_logits(&tiny()));
    edit_json(&directory.path().join("config.json"), |config| config["tie_word_embeddings"] = false.into());
    let doubled: Vec<f32> = tied.iter().map(|v| v * 2.0).collect();
    assert_close(&first_logits(&load(directory.path()).unwrap()), &doubled, 1e-3);
}

#[test]
fn gguf_loads_quantised() {
    let expected = first_logits(&tiny());
    for (kind, tolerance) in [(GgmlDType::F16, 0.05), (GgmlDType::Q8_0, 0.6)] {
        let directory = without_weights();
        let stored: Vec<(String, QTensor)> = tensors()
            .into_iter()
            .map(|(name, tensor)| {
                // Rows of 48 are no whole blocks of 32, so only the wider matrices can be quantised here.
                let whole = tensor.rank() == 2 && tensor.dim(1).unwrap() % kind.block_size() == 0;
                let kind = if whole && !name.contains("embed_positions") { kind } else { GgmlDType::F32 };
                (name, QTensor::quantize(&tensor, kind).unwrap())
            })
            .collect();
        assert!(stored.iter().any(|(_, t)| t.dtype() == kind));
        let refs: Vec<(&str, &QTensor)> = stored.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let path = directory.path().join("tiny.gguf");
        gguf_file::write(&mut fs::File::create(&path).unwrap(), &[], &refs).unwrap();
        let got = first_logits(&load(directory.path()).unwrap());
        assert_close(&got, &expected, tolerance);
        assert_ne!(got, expected);

        let whole = fs::read(&path).unwrap();
        for cut in [3, 100, whole.len() / 2, whole.len() - 3000] {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = load(directory.path()).unwrap_err();
            assert!(matches!(error, ModelError::Damaged { .. }), "{error:?}");
        }
    }
}

#[test]
fn a_quantised_token_table_is_looked_up_and_projected() {
    // A model of 64 wide rows, so that every matrix is made of whole blocks: widened with zeros would change the
    // norms, so this one is only compared with itself in f32.
    let widen =
        |shape: &[usize]| -> Vec<usize> { shape.iter().map(|&n| if n == 48 { 64 } else { n }).collect() };
    let mut seed = 1u32;
    let mut noise = |shape: Vec<usize>| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 8) as f32 / (1u32 << 24) as f32 - 0.5
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let mut names: Vec<(String, Tensor)> = tensors().into_iter().collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let wide: HashMap<String, Tensor> =
        names.into_iter().map(|(n, t)| (n, (noise(widen(t.dims())) * 0.4).unwrap())).collect();
    let config = |directory: &Path| {
        edit_json(&directory.join("config.json"), |c| {
            c["d_model"] = 64.into();
            c["encoder_attention_heads"] = 4.into();
            c["decoder_attention_heads"] = 4.into();
        });
    };
    let dense = with_weights(&wide);
    config(dense.path());
    let quantised = without_weights();
    config(quantised.path());
    let stored: Vec<(String, QTensor)> = wide
        .iter()
        .map(|(n, t)| {
            let kind =
                if t.rank() == 2 && !n.contains("positions") { GgmlDType::Q8_0 } else { GgmlDType::F32 };
            (n.clone(), QTensor::quantize(t, kind).unwrap())
        })
        .collect();
    let refs: Vec<(&str, &QTensor)> = stored.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut fs::File::create(quantised.path().join("m.gguf")).unwrap(), &[], &refs).unwrap();
    let expected = first_logits(&load(dense.path()).unwrap());
    assert_close(&first_logits(&load(quantised.path()).unwrap()), &expected, 0.05);
}
