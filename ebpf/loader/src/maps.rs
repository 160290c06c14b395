//! The flows that are owned, and the counters.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
};
use freena_ebpf_abi::{Counter, FlowKey, MAP_COUNTERS, MAP_FLOWS, MAX_FLOWS};

use crate::{LoadError, map_error};

type Flows = HashMap<MapData, [u8; 20], u32>;

/// The maps that every program uses.
pub struct Maps {
    interface: String,
    flows: Mutex<Flows>,
    counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    pub(crate) fn take(ebpf: &mut Ebpf, interface: &str) -> Result<Maps, LoadError> {
        Ok(Maps {
            interface: interface.to_owned(),
            flows: Mutex::new(HashMap::try_from(take(ebpf, MAP_FLOWS)?)?),
            counters: PerCpuArray::try_from(take(ebpf, MAP_COUNTERS)?)?,
        })
    }

    /// From now on the programs take frames of `flow`.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] where [`MAX_FLOWS`] flows are owned; what the kernel returns otherwise.
    pub fn own(&self, flow: FlowKey) -> io::Result<()> {
        let inserted = self.flows().insert(flow.to_bytes(), 0, 0).map_err(map_error);
        inserted.map_err(|error| match error.raw_os_error() {
            Some(libc::E2BIG) => io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "{} owns {MAX_FLOWS} flows already, as many as the eBPF programs take",
                    self.interface
                ),
            ),
            _ => error,
        })
    }

    /// From now on frames of `flow` go to the kernel. A flow that is not owned is none.
    ///
    /// # Errors
    /// What the kernel returns.
    pub fn disown(&self, flow: FlowKey) -> io::Result<()> {
        match self.flows().remove(&flow.to_bytes()) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => match map_error(error) {
                error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// How many frames went where and why, in the order of [`Counter::ALL`], of all CPUs together.
    ///
    /// # Errors
    /// What the kernel returns.
    pub fn counters(&self) -> io::Result<[u64; Counter::ALL.len()]> {
        let mut sums = [0; Counter::ALL.len()];
        for (sum, counter) in sums.iter_mut().zip(Counter::ALL) {
            let values = self.counters.get(&(counter as u32), 0).map_err(map_error)?;
            *sum = values.iter().sum();
        }
        Ok(sums)
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        // Each use is one system call: a panic in between leaves nothing half done.
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a map out of the object.
///
/// # Errors
/// There is none of this name, or it was taken before.
pub fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or_else(|| format!("the embedded object has no map {name}").into())
}
