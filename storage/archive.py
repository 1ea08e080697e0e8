"""The archive as one value: settings, database, objects, and the services that every front-end shares."""

from dataclasses import dataclass
from datetime import timedelta

from dicomweb.errors import Unavailable
from storage.access import Access
from storage.archives import ArchiveService
from storage.arrays import ArrayService
from storage.asked import AskedService
from storage.attachments import AttachmentService
from storage.changes import ChangeService
from storage.channels import EventChannels
from storage.commitment import CommitmentService
from storage.contents import ContentService
from storage.counts import Key, Spread
from storage.creation import CreationService
from storage.damage import Damage
from storage.data_sets import DataSetService
from storage.db import Database
from storage.decoders import DecoderPool
from storage.embedded import attach
from storage.find import FindService
from storage.frame_blocks import FrameBlocks
from storage.ingest import IngestService
from storage.jobs import JobService
from storage.labels import LabelService
from storage.lifecycle import LifecycleService
from storage.modalities import ModalityService
from storage.modality_worklist import ModalityWorklistService
from storage.modification import ModificationService
from storage.objects import ObjectStore, open_store
from storage.performed_steps import PerformedStepService
from storage.pixels import PixelService
from storage.remotes import RemoteService
from storage.rendering import RenderingService
from storage.resources import ResourceService
from storage.rest_state import RestState
from storage.retrieve import RetrieveService
from storage.sealing import Sealer
from storage.search import SearchService
from storage.selection import SelectionService
from storage.settings import Settings
from storage.slides import SlideIndex
from storage.spool import Spool
from storage.study_objects import StudyObjects
from storage.tag_sets import TagService
from storage.transcoding import TranscodeService
from storage.transfers import TransferService
from storage.user_metadata import MetadataService
from storage.worklist import WorklistService


@dataclass(frozen=True, slots=True)
class Statistics:
    """Totals of one tenant; `bytes` as stored, before compression by the store."""

    patients: int
    studies: int
    series: int
    instances: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Archive:
    """An open archive. Cheap to pass around; close it once."""

    settings: Settings
    db: Database
    objects: ObjectStore
    sealer: Sealer
    damage: Damage
    ingest: IngestService
    search: SearchService
    retrieve: RetrieveService
    selection: SelectionService
    pixels: PixelService
    transcode: TranscodeService
    data_sets: DataSetService
    rendering: RenderingService
    slides: SlideIndex
    study_objects: StudyObjects
    frames: FrameBlocks
    decoders: DecoderPool
    archives: ArchiveService
    lifecycle: LifecycleService
    worklist: WorklistService
    channels: EventChannels
    jobs: JobService
    modalities: ModalityService
    resources: ResourceService
    labels: LabelService
    metadata: MetadataService
    attachments: AttachmentService
    changes: ChangeService
    tags: TagService
    contents: ContentService
    find: FindService
    rest_state: RestState
    arrays: ArrayService
    asked: AskedService
    commitment: CommitmentService
    modality_worklist: ModalityWorklistService
    performed_steps: PerformedStepService
    modification: ModificationService
    remotes: RemoteService
    transfers: TransferService
    creation: CreationService

    def new_spool(self, *, eager: bool = False) -> Spool:
        """Where the bytes of one incoming instance go; `eager` as for Spool."""
        settings = self.settings
        return Spool(
            self.objects.spool_dir, memory_limit=settings.spool_memory, max_size=settings.max_instance, eager=eager
        )

    async def statistics(self, access: Access) -> Statistics:
        """Totals, from counts that the index keeps."""
        access.require("system.read")
        row = await self.db.fetch_row("statistics", access.tenant)
        assert row is not None
        return Statistics(**dict(row))

    async def check(self) -> None:
        """Raise Unavailable unless database and object store take writes."""
        if not await self.db.fetch_value("ready"):
            raise Unavailable("the database takes no writes (a standby, or set to read-only)")
        await self.objects.check()

    def counters(self) -> dict[Key, float]:
        """Totals of this process for the metrics."""
        ingest, frames, objects = self.ingest.counters, self.decoders.counters, self.objects.counts
        return {
            ("ingest_bytes",): ingest.bytes,
            ("objects_bytes", "direction", "read"): objects.read,
            ("objects_bytes", "direction", "written"): objects.written,
            **{("ingest", "outcome", name): count for name, count in ingest.outcomes.items()},
            **{("scan_fallbacks", "reason", name): count for name, count in ingest.fallbacks.items()},
            **{("damaged_reads", "reason", name): count for name, count in self.damage.counts.items()},
            ("decoder_starts",): frames.starts,
            **{("decoder_frames", "codec", c, "outcome", outcome): n for (c, outcome), n in frames.frames.items()},
            **{("transcode_cache", "result", name): count for name, count in self.transcode.cache_use.items()},
            **{("thumbnail_cache", "result", name): count for name, count in self.rendering.thumbnails.use.items()},
        }

    def times(self) -> dict[Key, Spread]:
        """How long statements and requests to the object store took in this process."""
        return {**self.db.times.spreads, **self.objects.counts.times.spreads}

    async def close(self) -> None:
        """Close connections; requests in flight fail."""
        self.decoders.close()
        await self.damage.settled()
        await self.channels.close()
        await self.jobs.close()
        await self.db.close()
        await self.objects.close()


async def open_archive(settings: Settings) -> Archive:
    """Connect to the database and the object store that the settings name.

    Raises Unavailable where the store's directory cannot be used; a service that is down is found by the first call.
    """
    sealer = Sealer.of(settings.credentials_key_file)
    db = await Database.open(
        settings.database_url or attach(settings.data / "postgres"),
        size=settings.database_pool,
        statement_cache=settings.database_statement_cache,
        limit=settings.database_timeout,
    )
    objects = open_store(settings)
    damage = Damage(db)
    search = SearchService(db, objects, damage)
    retrieve = RetrieveService(settings, db, objects, damage)
    decoders = DecoderPool(settings)
    pixels = PixelService(retrieve, decoders)
    transcode = TranscodeService(settings, retrieve, pixels, decoders)
    rendering = RenderingService(settings, retrieve, pixels)
    resources = ResourceService(settings, db)
    slides = SlideIndex(settings, db, objects, damage)
    channels = EventChannels(db)
    jobs = JobService(settings, db, objects, sealer)
    ingest = IngestService(settings, db, objects, slides, damage)
    return Archive(
        settings=settings,
        db=db,
        objects=objects,
        sealer=sealer,
        damage=damage,
        ingest=ingest,
        search=search,
        retrieve=retrieve,
        selection=SelectionService(db, retrieve),
        pixels=pixels,
        transcode=transcode,
        data_sets=DataSetService(retrieve, transcode),
        rendering=rendering,
        slides=slides,
        study_objects=StudyObjects(db, objects, damage),
        frames=FrameBlocks(db, retrieve, settings.slide_cache_bytes),
        decoders=decoders,
        archives=ArchiveService(db, search, retrieve, transcode),
        lifecycle=LifecycleService(db, timedelta(seconds=settings.tomb_grace_s)),
        worklist=WorklistService(settings, db, channels),
        channels=channels,
        jobs=jobs,
        modalities=ModalityService(settings, db, sealer),
        resources=resources,
        find=FindService(db, resources),
        rest_state=RestState(db),
        labels=LabelService(db),
        metadata=MetadataService(settings, db),
        attachments=AttachmentService(settings, db, objects, damage),
        changes=ChangeService(settings, db),
        tags=TagService(db, objects, damage),
        contents=ContentService(retrieve),
        arrays=ArrayService(db, retrieve, pixels, rendering),
        asked=AskedService(settings, db),
        commitment=CommitmentService(settings, db, objects, jobs, damage),
        modality_worklist=ModalityWorklistService(settings, db),
        performed_steps=PerformedStepService(settings, db),
        modification=ModificationService(settings, objects, retrieve, transcode, ingest),
        remotes=RemoteService(settings, db, sealer),
        transfers=TransferService(settings, db, objects),
        creation=CreationService(settings, db, objects, decoders),
    )
