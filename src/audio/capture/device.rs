//! The sound card through cpal: the only file that needs hardware, kept as thin as it can be.

use cpal::{
    ErrorKind, FromSample, SampleFormat, SizedSample, StreamConfig,
    traits::{DeviceTrait, HostTrait, StreamTrait},
};

use super::{
    CaptureOptions, InputDevice,
    worker::{Backend, Opened, Sink},
};
use crate::audio::AudioError;

/// How ALSA describes the plugin that records silence, which is no microphone.
const NULL_DEVICE: &str = "Discard all samples";

/// The operating system's default audio host.
pub(super) struct CpalBackend;

impl Backend for CpalBackend {
    fn open(&mut self, options: &CaptureOptions, sink: Sink) -> Result<Opened, AudioError> {
        let device = choose(options)?;
        let name = name_of(&device);
        let failed = |error: cpal::Error| match device_error(&name, &error) {
            // ALSA always has a default; that it is not there is only seen when it is opened.
            AudioError::DeviceLost { .. } if options.device.is_none() => {
                AudioError::NoDevice { reason: none_at_all() }
            }
            error => error,
        };
        let supported = device.default_input_config().map_err(failed)?;
        let config = supported.config();
        let stream = match supported.sample_format() {
            SampleFormat::F32 => build::<f32>(&device, config, sink),
            SampleFormat::I16 => build::<i16>(&device, config, sink),
            SampleFormat::I32 => build::<i32>(&device, config, sink),
            SampleFormat::I24 => build::<cpal::I24>(&device, config, sink),
            SampleFormat::U8 => build::<u8>(&device, config, sink),
            SampleFormat::I8 => build::<i8>(&device, config, sink),
            SampleFormat::U16 => build::<u16>(&device, config, sink),
            SampleFormat::F64 => build::<f64>(&device, config, sink),
            other => {
                let reason =
                    format!("it gives {other} samples, which godctl does not read; choose another input");
                return Err(AudioError::Device { device: name, reason });
            }
        }
        .map_err(failed)?;
        stream.play().map_err(failed)?;
        Ok(Opened { name, rate_hz: config.sample_rate, stream: Box::new(stream) })
    }
}

fn build<T>(device: &cpal::Device, config: StreamConfig, mut sink: Sink) -> Result<cpal::Stream, cpal::Error>
where
    T: SizedSample,
    f32: FromSample<T>,
{
    let channels = usize::from(config.channels);
    let signals = sink.signals();
    device.build_input_stream::<T, _, _>(
        config,
        move |data, _| sink.push(data, channels, f32::from_sample_),
        move |error| match error.kind() {
            // The stream goes on: another route, no priority, or a gap that the driver noticed.
            ErrorKind::DeviceChanged | ErrorKind::RealtimeDenied | ErrorKind::Xrun => {}
            _ => signals.set_lost(),
        },
        None,
    )
}

fn choose(options: &CaptureOptions) -> Result<cpal::Device, AudioError> {
    let host = cpal::default_host();
    let Some(wanted) = &options.device else {
        return host.default_input_device().ok_or_else(|| AudioError::NoDevice { reason: none_at_all() });
    };
    let devices: Vec<cpal::Device> = host.input_devices().map_err(|error| system_error(&error))?.collect();
    let names: Vec<String> = devices.iter().map(name_of).collect();
    let Some(index) = position_of(wanted, &names) else {
        let reason = if names.is_empty() {
            none_at_all()
        } else {
            format!("no input is called {wanted:?}; there are: {}", names.join(", "))
        };
        return Err(AudioError::NoDevice { reason });
    };
    devices.into_iter().nth(index).ok_or_else(|| AudioError::NoDevice { reason: none_at_all() })
}

/// The device of that name, else the first whose name contains it; case does not count.
fn position_of(wanted: &str, names: &[String]) -> Option<usize> {
    let wanted = wanted.to_lowercase();
    let lower: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    lower
        .iter()
        .position(|name| *name == wanted)
        .or_else(|| lower.iter().position(|name| name.contains(&wanted)))
}

fn none_at_all() -> String {
    "no microphone was found; plug one in, or use --input file:PATH to play a recording as if it were one"
        .to_owned()
}

pub(super) fn list() -> Result<Vec<InputDevice>, AudioError> {
    let host = cpal::default_host();
    let default = host.default_input_device().map(|device| name_of(&device));
    let devices = host.input_devices().map_err(|error| system_error(&error))?;
    Ok(devices
        .filter_map(|device| {
            let name = name_of(&device);
            if name.starts_with(NULL_DEVICE) {
                return None;
            }
            let ranges: Vec<_> = device.supported_input_configs().ok()?.collect();
            Some(InputDevice {
                is_default: default.as_ref() == Some(&name),
                rates_hz: (
                    ranges.iter().map(|range| range.min_sample_rate()).min()?,
                    ranges.iter().map(|range| range.max_sample_rate()).max()?,
                ),
                channels: ranges.iter().map(|range| range.channels()).max()?,
                name,
            })
        })
        .collect())
}

fn name_of(device: &cpal::Device) -> String {
    device.description().map_or_else(|_| device.to_string(), |description| description.name().to_owned())
}

fn system_error(error: &cpal::Error) -> AudioError {
    device_error("the audio system", error)
}

fn device_error(name: &str, error: &cpal::Error) -> AudioError {
    let device = name.to_owned();
    match error.kind() {
        ErrorKind::DeviceBusy => AudioError::DeviceBusy { device },
        ErrorKind::PermissionDenied => AudioError::DeviceDenied { device },
        ErrorKind::DeviceNotAvailable | ErrorKind::StreamInvalidated => AudioError::DeviceLost { device },
        _ => AudioError::Device { device, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_chosen_by_any_part_of_its_name() {
        let names = ["HDA Intel PCH", "USB Microphone (2)", "USB Microphone"].map(str::to_owned);
        assert_eq!(position_of("intel", &names), Some(0));
        assert_eq!(position_of("usb microphone", &names), Some(2), "the exact name wins");
        assert_eq!(position_of("microphone", &names), Some(1));
        assert_eq!(position_of("webcam", &names), None);
    }

    #[test]
    fn the_driver_s_errors_become_actions() {
        let error = |kind| device_error("mic", &cpal::Error::new(kind));
        assert!(matches!(error(ErrorKind::DeviceBusy), AudioError::DeviceBusy { .. }));
        assert!(matches!(error(ErrorKind::PermissionDenied), AudioError::DeviceDenied { .. }));
        assert!(matches!(error(ErrorKind::DeviceNotAvailable), AudioError::DeviceLost { .. }));
        assert!(error(ErrorKind::BackendError).is_retryable());
        assert!(none_at_all().contains("--input file:PATH"), "the fix is named");
    }
}
