//! How many repairs a loss takes.

use crate::wire::{MAX_REPAIRS, Report};

/// Share of messages that may stay lost.
const TARGET: f64 = 2e-4;
/// Weight of a new report in the average, if the loss has grown or fallen. It falls slowly: losses come in bursts.
const UP: f64 = 0.5;
const DOWN: f64 = 0.1;
/// A report of so few messages says little.
const FEW: u32 = 20;

/// The loss that the peer measures.
#[derive(Default)]
pub(crate) struct Loss {
    average: Option<f64>,
}

impl Loss {
    pub(crate) fn heard(&mut self, report: Report) {
        if report.expected < FEW {
            return;
        }
        let new = f64::from(report.expected - report.received) / f64::from(report.expected);
        let old = self.average.unwrap_or(new);
        self.average = Some(old + (new - old) * if new > old { UP } else { DOWN });
    }

    pub(crate) fn average(&self) -> Option<f64> {
        self.average
    }

    /// Repairs for a block of `messages`, once the loss is known.
    pub(crate) fn repairs(&self, messages: usize) -> Option<usize> {
        let loss = self.average?;
        if loss < TARGET {
            return Some(0);
        }
        Some(
            (0..=MAX_REPAIRS).find(|repairs| left(loss, messages, *repairs) <= TARGET).unwrap_or(MAX_REPAIRS),
        )
    }
}

/// Share of a block's messages that is lost for good, if each datagram is lost with probability `loss` and independently:
/// those of blocks of which more than `repairs` datagrams are lost.
fn left(loss: f64, messages: usize, repairs: usize) -> f64 {
    let all = messages + repairs;
    let mut probability = (1.0 - loss).powi(all as i32);
    let mut left = 0.0;
    for lost in 0..=all {
        if lost > repairs {
            left += probability * lost as f64 / all as f64;
        }
        probability *= (all - lost) as f64 / (lost + 1) as f64 * loss / (1.0 - loss).max(1e-9);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_loss_takes_more_repairs_and_none_takes_none() {
        let repairs = |lost: u32| {
            let mut loss = Loss::default();
            for _ in 0..50 {
                loss.heard(Report { expected: 1000, received: 1000 - lost });
            }
            loss.repairs(10).unwrap()
        };
        assert_eq!(repairs(0), 0);
        assert_eq!(repairs(50), 4, "5 %");
        let all: Vec<usize> = (0..30).map(|it| repairs(it * 10)).collect();
        assert!(all.is_sorted(), "{all:?}");
        assert_eq!(Loss::default().repairs(10), None);
        let mut loss = Loss::default();
        loss.heard(Report { expected: 3, received: 0 });
        assert_eq!(loss.average(), None, "too few to tell");
    }
}
