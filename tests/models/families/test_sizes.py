"""Every published size has the parameters that it was published with."""

import pytest

from tests.tiers import tiers
from tlx.hub.folder import count
from tlx.models.families import TABLE
from tlx.models.families.family import replaced

# family, size, Hugging Face class whose heads count ("" for the model alone), parameters (tied ones once).
EXACT = """
gpt base OpenAIGPTLMHeadModel 116_534_784
gpt2 small GPT2LMHeadModel 124_439_808
gpt2 medium GPT2LMHeadModel 354_823_168
gpt2 large GPT2LMHeadModel 774_030_080
gpt2 xl GPT2LMHeadModel 1_557_611_200
gpt3 small - 125_226_240
gpt3 medium - 355_871_744
gpt3 large - 760_300_032
gpt3 xl - 1_315_723_264
gpt3 2.7b - 2_651_553_280
gpt3 6.7b - 6_658_404_352
gpt3 175b - 174_604_259_328
bert tiny BertModel 4_385_920
bert mini BertModel 11_170_560
bert small BertModel 28_763_648
bert medium BertModel 41_373_184
bert base BertModel 109_482_240
bert large BertModel 335_141_888
bert base BertForPreTraining 110_106_428
bert large BertForPreTraining 336_226_108
roberta base RobertaForMaskedLM 124_697_433
roberta large RobertaForMaskedLM 355_412_057
electra small ElectraForPreTraining 13_549_057
electra base ElectraForPreTraining 109_483_009
electra large ElectraForPreTraining 335_142_913
albert base AlbertModel 11_683_584
albert large AlbertModel 17_683_968
albert xlarge AlbertModel 58_724_864
albert xxlarge AlbertModel 222_595_584
xlnet base XLNetLMHeadModel 116_750_336
xlnet large XLNetLMHeadModel 360_300_800
distilbert base DistilBertModel 66_362_880
deberta base DebertaModel 138_601_728
deberta large DebertaModel 405_163_008
deberta xlarge DebertaModel 757_804_032
deberta-v2 v3-xsmall DebertaV2Model 70_682_112
deberta-v2 v3-small DebertaV2Model 141_304_320
deberta-v2 v3-base DebertaV2Model 183_831_552
deberta-v2 v3-large DebertaV2Model 434_012_160
deberta-v2 mdeberta-v3-base DebertaV2Model 278_218_752
deberta-v2 v2-xlarge DebertaV2Model 884_593_152
deberta-v2 v2-xxlarge DebertaV2Model 1_564_549_632
modernbert base ModernBertForMaskedLM 149_655_232
modernbert large ModernBertForMaskedLM 395_881_664
t5 small T5ForConditionalGeneration 60_506_624
t5 base T5ForConditionalGeneration 222_903_552
t5 large T5ForConditionalGeneration 737_668_096
t5 3b T5ForConditionalGeneration 2_851_598_336
t5 11b T5ForConditionalGeneration 11_307_321_344
t5-1.1 small T5ForConditionalGeneration 76_961_152
t5-1.1 base T5ForConditionalGeneration 247_577_856
t5-1.1 large T5ForConditionalGeneration 783_150_080
t5-1.1 xl T5ForConditionalGeneration 2_849_757_184
t5-1.1 xxl T5ForConditionalGeneration 11_135_332_352
mt5 small MT5ForConditionalGeneration 300_176_768
mt5 base MT5ForConditionalGeneration 582_401_280
mt5 large MT5ForConditionalGeneration 1_229_581_312
mt5 xl MT5ForConditionalGeneration 3_742_619_648
mt5 xxl MT5ForConditionalGeneration 12_921_057_280
bart base BartForConditionalGeneration 139_420_416
bart large BartForConditionalGeneration 406_290_432
mbart cc25 MBartForConditionalGeneration 610_851_840
llama 7b LlamaForCausalLM 6_738_415_616
llama 13b LlamaForCausalLM 13_015_864_320
llama 33b LlamaForCausalLM 32_528_943_616
llama 65b LlamaForCausalLM 65_285_660_672
llama2 7b LlamaForCausalLM 6_738_415_616
llama2 13b LlamaForCausalLM 13_015_864_320
llama2 70b LlamaForCausalLM 68_976_648_192
mistral 7b MistralForCausalLM 7_241_732_096
pythia 70m GPTNeoXForCausalLM 70_426_624
pythia 160m GPTNeoXForCausalLM 162_322_944
pythia 410m GPTNeoXForCausalLM 405_334_016
pythia 1b GPTNeoXForCausalLM 1_011_781_632
pythia 1.4b GPTNeoXForCausalLM 1_414_647_808
pythia 2.8b GPTNeoXForCausalLM 2_775_208_960
pythia 6.9b GPTNeoXForCausalLM 6_857_302_016
pythia 12b GPTNeoXForCausalLM 11_846_072_320
polyglot-ko 1.3b GPTNeoXForCausalLM 1_331_810_304
polyglot-ko 3.8b GPTNeoXForCausalLM 3_809_974_272
polyglot-ko 5.8b GPTNeoXForCausalLM 5_885_059_072
polyglot-ko 12.8b GPTNeoXForCausalLM 12_893_603_840
ctrl large CTRLLMHeadModel 1_637_964_550
elmo base - 93_600_848
transformer-xl base - 151_119_838
transformer-xl large - 285_205_322
meena 2.6b - 2_592_236_800
"""

# Counted with the classes themselves, without memory (tests/hub/test_live.py counts them again).
SINCE = """
mamba2 130m Mamba2ForCausalLM 128_989_632
mamba2 370m Mamba2ForCausalLM 368_346_624
mamba2 780m Mamba2ForCausalLM 780_161_280
mamba2 1.3b Mamba2ForCausalLM 1_343_757_312
mamba2 2.7b Mamba2ForCausalLM 2_702_599_680
mamba2 codestral-7b Mamba2ForCausalLM 7_285_403_648
qwen2 0.5b Qwen2ForCausalLM 494_032_768
qwen2 1.5b Qwen2ForCausalLM 1_543_714_304
qwen2 3b Qwen2ForCausalLM 3_085_938_688
qwen2 7b Qwen2ForCausalLM 7_615_616_512
qwen2 14b Qwen2ForCausalLM 14_770_033_664
qwen2 32b Qwen2ForCausalLM 32_763_876_352
qwen2 72b Qwen2ForCausalLM 72_706_203_648
gemma 2b GemmaForCausalLM 2_506_172_416
gemma 7b GemmaForCausalLM 8_537_680_896
gemma2 2b Gemma2ForCausalLM 2_614_341_888
gemma2 9b Gemma2ForCausalLM 9_241_705_984
gemma2 27b Gemma2ForCausalLM 27_227_128_320
gemma4 e2b Gemma4ForCausalLM 4_628_569_344
gemma4 e4b Gemma4ForCausalLM 7_463_013_376
gemma4 12b Gemma4ForCausalLM 11_907_350_272
gemma4 31b Gemma4ForCausalLM 30_697_345_280
opt 125m OPTForCausalLM 125_239_296
opt 1.3b OPTForCausalLM 1_315_758_080
opt 2.7b OPTForCausalLM 2_651_596_800
opt 6.7b OPTForCausalLM 6_658_473_984
opt 13b OPTForCausalLM 12_853_473_280
opt 30b OPTForCausalLM 29_974_540_288
opt 66b OPTForCausalLM 65_719_701_504
phi 1 PhiForCausalLM 1_418_270_720
phi 1.5 PhiForCausalLM 1_418_270_720
phi 2 PhiForCausalLM 2_779_683_840
phi3 mini Phi3ForCausalLM 3_821_079_552
phi3 medium Phi3ForCausalLM 13_960_238_080
phi3 phi-4 Phi3ForCausalLM 14_659_507_200
phi3 phi-4-mini Phi3ForCausalLM 3_836_021_760
gpt-j 6b GPTJForCausalLM 6_050_882_784
gpt-neo 125m GPTNeoForCausalLM 125_198_592
gpt-neo 1.3b GPTNeoForCausalLM 1_315_575_808
gpt-neo 2.7b GPTNeoForCausalLM 2_651_307_520
falcon 7b FalconForCausalLM 6_921_720_704
falcon 40b FalconForCausalLM 41_303_293_952
falcon 180b FalconForCausalLM 178_557_088_768
bloom 560m BloomForCausalLM 559_214_592
bloom 1.1b BloomForCausalLM 1_065_314_304
bloom 1.7b BloomForCausalLM 1_722_408_960
bloom 3b BloomForCausalLM 3_002_557_440
bloom 7.1b BloomForCausalLM 7_069_016_064
bloom 176b BloomForCausalLM 176_247_271_424
mpt 7b MptForCausalLM 6_649_286_656
mpt 30b MptForCausalLM 29_957_200_896
starcoder2 3b Starcoder2ForCausalLM 3_030_371_328
starcoder2 7b Starcoder2ForCausalLM 7_173_923_840
starcoder2 15b Starcoder2ForCausalLM 15_957_889_024
stablelm 3b StableLmForCausalLM 2_795_443_200
stablelm 2-1.6b StableLmForCausalLM 1_644_515_328
stablelm 2-12b StableLmForCausalLM 12_143_185_920
olmo2 1b Olmo2ForCausalLM 1_484_916_736
olmo2 7b Olmo2ForCausalLM 7_298_617_344
olmo2 13b Olmo2ForCausalLM 13_716_198_400
olmo2 32b Olmo2ForCausalLM 32_234_279_936
olmo3 7b Olmo3ForCausalLM 7_298_011_136
olmo3 32b Olmo3ForCausalLM 32_233_522_176
smollm3 3b SmolLM3ForCausalLM 3_075_098_624
granite 3.3-2b GraniteForCausalLM 2_533_539_840
granite 3.3-8b GraniteForCausalLM 8_170_864_640
cohere command-r CohereForCausalLM 34_980_831_232
cohere command-r-plus CohereForCausalLM 103_810_674_688
cohere aya-8b CohereForCausalLM 8_028_033_024
glm4 9b Glm4ForCausalLM 9_400_279_040
glm4 32b Glm4ForCausalLM 33_141_749_760
modernbert-decoder 150m ModernBertDecoderForCausalLM 149_655_232
modernbert-decoder 17m ModernBertDecoderForCausalLM 16_913_600
modernbert-decoder 32m ModernBertDecoderForCausalLM 32_081_344
modernbert-decoder 68m ModernBertDecoderForCausalLM 68_457_664
modernbert-decoder 400m ModernBertDecoderForCausalLM 395_881_664
modernbert-decoder 1b ModernBertDecoderForCausalLM 1_031_314_112
mobilebert base MobileBertForMaskedLM 36_596_538
mobilebert tiny MobileBertForMaskedLM 27_500_346
mpnet base MPNetForMaskedLM 109_518_527
nomic-bert base NomicBertForMaskedLM 137_354_304
eurobert 210m EuroBertForMaskedLM 310_266_624
eurobert 610m EuroBertForMaskedLM 755_625_600
eurobert 2.1b EuroBertForMaskedLM 2_403_092_736
t5gemma 2b-2b T5GemmaForConditionalGeneration 5_596_853_760
t5gemma 9b-9b T5GemmaForConditionalGeneration 20_333_401_088
blenderbot-small 90m BlenderbotSmallForConditionalGeneration 87_508_992
camembert base CamembertForMaskedLM 110_655_493
camembert large CamembertForMaskedLM 336_695_557
m2m-100 418m M2M100ForConditionalGeneration 483_905_536
m2m-100 1.2b M2M100ForConditionalGeneration 1_239_470_080
m2m-100 nllb-600m M2M100ForConditionalGeneration 615_073_792
m2m-100 nllb-1.3b M2M100ForConditionalGeneration 1_370_638_336
m2m-100 nllb-3.3b M2M100ForConditionalGeneration 3_344_863_232
"""

# What was printed, where no class says it exactly.
PRINTED = """
megatron-gpt2 345m 355e6
megatron-gpt2 1.2b 1.2e9
megatron-gpt2 2.5b 2.5e9
megatron-gpt2 4.2b 4.2e9
megatron-gpt2 8.3b 8.3e9
lamda 137b 137e9
gpt-neox 20b 20.6e9
mixtral 8x7b 46.7e9
mixtral 8x22b 141e9
qwen3 0.6b 0.6e9
qwen3 8b 8.2e9
gemma3 1b 1.0e9
gemma3 27b 27e9
"""


def rows(table):
    return [line.split() for line in table.split("\n") if line]


def first_sizes(table):
    """The first size of each family."""
    return [row for i, row in enumerate(table) if row[0] not in [other[0] for other in table[:i]]]


def by_size(table):
    """All rows: the first sizes are slow tests, every fourth of them quick; the others are run by hand."""
    first = [tuple(row) for row in first_sizes(table)]
    return tiers(map(tuple, table), quick=first[::4], slow=first)


@pytest.mark.parametrize(
    ("name", "size", "architecture", "expected"),
    [
        *by_size(rows(EXACT)),
        *by_size(rows(SINCE)),
    ],
)
def test_parameters_are_exactly_those_of_the_reference(name, size, architecture, expected):
    family = TABLE.load(name)
    config = family.sizes[size]
    found = count(config, family.architectures.get(architecture, ()))
    # BART's final_logits_bias and Gemma 4's numbers of layers are parameters here and buffers, which do not count, in
    # their classes.
    buffers = config.vocab_size if config.kind == "encoder_decoder" and config.head.bias else 0
    buffers += config.num_layers * config.layer_scalars
    assert found - buffers == int(expected)


@pytest.mark.parametrize(
    ("size", "expected"), [("base", 24_844_544), ("tiny", 15_748_352), ("ib-bert-large", 294_467_840)]
)
def test_bare_mobilebert_with_its_pooler(size, expected):
    """MobileBertModel of transformers 5, whose pooler is on by default; the teacher as printed, 293M.

    The class gives the teacher's queries and keys kernels of 1024 x 1024 for inputs of 512, which it cannot run:
    24 * 2 * 512 * 1024 of its 319,633,664 parameters.
    """
    config = replaced(TABLE.load("mobilebert").sizes[size], {"head.pooler": True, "head.absent": True})
    assert count(config, ("heads/nsp/pooler",)) == expected


def test_gpt3_13b_as_printed():
    """40 heads of 128 are 5120 and not the width 5140; with 5140 it would be 12,952,938,780."""
    missing = 40 * (4 * 5140 * 20 + 3 * 20)
    assert count(TABLE.load("gpt3").sizes["13b"]) + missing == 12_952_938_780


@pytest.mark.parametrize(("name", "size", "expected"), rows(PRINTED))
def test_parameters_are_as_published(name, size, expected):
    found = count(TABLE.load(name).sizes[size])
    assert abs(found / float(expected) - 1) < 0.015, f"{found:,}"


def test_every_size_is_a_valid_model():
    for name in TABLE:
        family = TABLE.load(name)
        assert family.sizes and family.citation
        for size, config in family.sizes.items():
            config.validate()
            assert config.vocab_size > 0, (name, size)
