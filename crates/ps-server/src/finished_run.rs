//! A server whose run is over: it answers late workers and shards that they need not try again.

use ps_net::Listener;
use ps_proto::Refusal;
use ps_proto::v1::{
    self, parameter_server_server::ParameterServer, parameter_server_server::ParameterServerServer,
};
use ps_shard::transport::{self, AdmissionConfig};
use std::future::Future;
use std::pin::Pin;
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// The service of a run that has made `steps` of its `planned` steps.
struct FinishedRun {
    steps: u64,
    planned: u64,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers all callers on `listener` that the run is over, after `steps` of `planned` steps,
/// until `shutdown` completes.
///
/// # Errors
/// The system does not allow the use of the listener.
pub async fn serve_finished_run(
    listener: impl Into<Listener>,
    admission: &AdmissionConfig,
    (steps, planned): (u64, u64),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let services = Routes::new(ParameterServerServer::new(FinishedRun { steps, planned }));
    let serving = transport::serve(services, listener.into(), admission, shutdown)?;
    serving.await.map_err(std::io::Error::other)
}

#[tonic::async_trait]
impl ParameterServer for FinishedRun {
    type RoundsStream = Answers<v1::FromServer>;
    type AttachStream = Answers<v1::ToShard>;
    type PullWeightsStream = Answers<v1::WeightsChunk>;

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Err(Refusal::RunFinished.into())
    }

    async fn rounds(
        &self,
        _: Request<Streaming<v1::FromWorker>>,
    ) -> Result<Response<Self::RoundsStream>, Status> {
        Err(Refusal::RunFinished.into())
    }

    async fn shards(&self, _: Request<v1::ShardsRequest>) -> Result<Response<v1::ShardsReply>, Status> {
        Err(Refusal::RunFinished.into())
    }

    async fn attach(
        &self,
        _: Request<Streaming<v1::FromShard>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(Refusal::RunFinished.into())
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Ok(Response::new(v1::StatusReply {
            version: self.steps,
            steps: self.planned.min(self.steps),
            state: "the run is over; its results are there".into(),
            loss: f64::NAN,
            ..v1::StatusReply::default()
        }))
    }

    async fn checkpoint(
        &self,
        _: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointReply>, Status> {
        Err(Refusal::RunFinished.into())
    }

    async fn stop(&self, _: Request<v1::StopRequest>) -> Result<Response<v1::StopReply>, Status> {
        Err(Refusal::RunFinished.into())
    }

    async fn pull_weights(
        &self,
        _: Request<v1::PullWeightsRequest>,
    ) -> Result<Response<Self::PullWeightsStream>, Status> {
        Err(Refusal::RunFinished.into())
    }
}
